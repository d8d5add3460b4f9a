import { describe, expect, it } from "vitest";
import type { Entry, Page } from "../src/protocol/messages";
import * as fold from "../src/state/log";
import { FakeServer } from "./fakeServer";

/** A small generator of numbers that gives the same each time (mulberry32). */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** A room with a random history, whole on the server. */
function world(seed: number, length: number) {
  const random = randomOf(seed);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T;
  const server = new FakeServer();
  const users = ["usr_a", "usr_b", "usr_c"];
  for (const user of users) server.user(user, user);
  const room = server.room("room", users);
  while (room.log.length < length) {
    const alive = room.log.filter(
      (entry) =>
        entry.type === "message.sent" &&
        !room.log.some((other) => other.type === "message.deleted" && other.target === entry.seq),
    );
    const target = alive.length ? pick(alive).seq : 0;
    const user = pick(users);
    const dice = target ? random() : 0;
    if (dice < 0.4)
      server.append(room, "message.sent", user, { device: "dev", cmid: `c${room.log.length}`, body: "text" });
    else if (dice < 0.55) server.append(room, "message.edited", user, { target, body: `edit ${room.log.length}` });
    else if (dice < 0.6) server.append(room, "message.deleted", user, { target });
    else if (dice < 0.8) server.append(room, "reaction.added", user, { target, emoji: pick(["👍", "🎉"]) });
    else server.append(room, "reaction.removed", user, { target, emoji: pick(["👍", "🎉"]) });
  }
  const page = (from: number, to: number, lastSeq: number): Page => {
    const upTo = { ...room, log: room.log.slice(0, lastSeq) };
    const entries = upTo.log.slice(from - 1, to).map((entry) => server.stored(upTo, entry));
    return { room: room.id, entries, last_seq: lastSeq };
  };
  return { random, server, room, page };
}

/** What one sees: without what only the fold needs. */
function view(log: fold.Log) {
  return log.items.map((item) => {
    if (item.kind === "notice") return `${item.seq} ${item.entry.type}`;
    const reactions = Object.entries(item.reactions)
      .map(([emoji, users]) => `${emoji}${[...users].sort().join(",")}`)
      .sort();
    return `${item.seq} ${item.deleted ? "deleted" : item.body} ${item.edited} ${reactions.join(" ")}`;
  });
}

function receiveAll(log: fold.Log, entries: readonly Entry[]): fold.Log {
  return entries.reduce((now, entry) => fold.receive(now, entry)[0], log);
}

describe("the fold of a log", () => {
  it("shows a message with what became of it", () => {
    const entry = (seq: number, type: Entry["type"], more: Partial<Entry> = {}): Entry => ({
      type,
      room: "rm",
      seq,
      at: seq,
      user: "usr_a",
      ...more,
    });
    const log = receiveAll(fold.emptyLog(0), [
      entry(1, "message.sent", { body: "one" }),
      entry(2, "message.edited", { target: 1, body: "two" }),
      entry(3, "reaction.added", { target: 1, emoji: "👍" }),
    ]);
    expect(fold.messageAt(log, 1)).toMatchObject({ body: "two", edited: 2, reactions: { "👍": ["usr_a"] } });
    const [deleted] = fold.receive(log, entry(4, "message.deleted", { target: 1 }));
    expect(fold.messageAt(deleted, 1)).toMatchObject({ deleted: true, body: "", reactions: {} });
  });

  it("shows nothing of what was said before its room was erased", () => {
    const entry = (seq: number, type: Entry["type"], more: Partial<Entry> = {}): Entry => ({
      type,
      room: "rm_1",
      seq,
      at: seq,
      user: "usr_a",
      ...more,
    });
    const log = receiveAll(fold.emptyLog(0), [
      entry(1, "message.sent", { body: "one" }),
      entry(2, "reaction.added", { target: 1, emoji: "👍" }),
      entry(3, "room.erased"),
      entry(4, "message.sent", { body: "two" }),
    ]);
    expect(fold.messageAt(log, 1)).toMatchObject({ deleted: true, body: "", reactions: {} });
    expect(fold.messageAt(log, 4)).toMatchObject({ deleted: false, body: "two" });
    expect(log.items.map((item) => item.kind)).toEqual(["message", "notice", "message"]);
  });

  it("drops repetitions and asks once for a gap", () => {
    const { room } = world(1, 12);
    const log = receiveAll(fold.emptyLog(0), room.log.slice(0, 5));
    expect(fold.receive(log, room.log[2] as Entry)).toEqual([log, "repeated"]);
    const [gap, outcome] = fold.receive(log, room.log[7] as Entry);
    expect(outcome).toBe("gap");
    expect(gap.gap).toBe(true);
    expect(fold.receive(gap, room.log[8] as Entry)[0]).toBe(gap);
    expect(fold.receive(gap, room.log[5] as Entry)[0].gap).toBe(false);
  });

  it("does not copy what an entry leaves as it was", () => {
    const { room } = world(2, 30);
    const before = receiveAll(fold.emptyLog(0), room.log);
    const [after] = fold.receive(before, {
      ...(room.log[5] as Entry),
      type: "message.sent",
      seq: 31,
      target: undefined,
    });
    expect(after.items.slice(0, -1).every((item, index) => item === before.items[index])).toBe(true);
  });

  for (let seed = 1; seed <= 60; seed += 1) {
    it(`is the same however the log arrives (${seed})`, () => {
      const { random, server, room, page } = world(seed, 90);
      const whole = view(receiveAll(fold.emptyLog(0), room.log));
      const length = room.log.length;

      // A page first, then live events: some twice, some lost and resumed as they are read from the store.
      const start = 20 + Math.floor(random() * 40);
      let log = fold.replaceWith(fold.emptyLog(start), page(start - 14, start, start));
      while (log.live < length) {
        const dice = random();
        if (dice < 0.15) log = receiveAll(log, room.log.slice(Math.max(0, log.live - 4), log.live));
        else if (dice < 0.3) {
          const [gap, outcome] = fold.receive(log, room.log[Math.min(length - 1, log.live + 3)] as Entry);
          if (outcome !== "gap") {
            log = gap;
            continue;
          }
          const resumed = room.log.slice(gap.live, gap.live + 9).map((entry) => server.stored(room, entry));
          log = receiveAll({ ...gap, gap: false }, resumed);
        } else log = receiveAll(log, room.log.slice(log.live, log.live + 1 + Math.floor(random() * 5)));
        // Older pages come at any time, read at any moment since they were asked for.
        if (random() < 0.3 && log.from > 1) {
          const head = Math.max(start, log.live - Math.floor(random() * 10));
          log = fold.prepend(log, page(Math.max(1, log.from - 9), log.from - 1, head));
        }
      }
      while (log.from > 1) log = fold.prepend(log, page(Math.max(1, log.from - 9), log.from - 1, length));
      expect(view(log)).toEqual(whole);
    });

    it(`is the same through a window that moves (${seed})`, () => {
      const { random, room, page } = world(seed + 1_000, 90);
      const whole = view(receiveAll(fold.emptyLog(0), room.log));
      const length = room.log.length;
      let log = fold.replaceWith(fold.emptyLog(60), page(41, 60, 60));
      // Up, while events arrive that are not in the window, then down again to the newest.
      for (const entry of room.log.slice(60)) {
        [log] = fold.receive(log, entry);
        if (random() < 0.5)
          log = fold.trim(fold.prepend(log, page(Math.max(1, log.from - 7), log.from - 1, entry.seq)), 12, "new");
      }
      while (log.from > 1) {
        log = fold.trim(fold.prepend(log, page(Math.max(1, log.from - 7), log.from - 1, length)), 12, "new");
      }
      while (!fold.isAttached(log)) log = fold.append(log, page(log.to + 1, log.to + 7, length));
      expect(view(log)).toEqual(whole);
    });
  }

  it("begins anew when the server says so", () => {
    const { room, page } = world(5, 60);
    const old = fold.replaceWith(fold.emptyLog(5), page(1, 5, 5));
    const log = receiveAll(fold.restart(room.log[40] as Entry), room.log.slice(40));
    expect(old.to).toBe(5);
    expect([log.from, log.to, log.live]).toEqual([41, 60, 60]);
  });

  it("leaves out a page that does not fit any more", () => {
    const { page } = world(6, 60);
    const log = fold.replaceWith(fold.emptyLog(60), page(40, 60, 60));
    expect(fold.prepend(log, page(20, 30, 60))).toBe(log);
    const older = fold.trim(fold.prepend(log, page(20, 39, 60)), 5, "new");
    expect(fold.append(older, page(older.to + 5, older.to + 9, 60))).toBe(older);
    expect(fold.prepend({ ...log, from: 1 }, { room: "rm", entries: [], last_seq: 60 }).from).toBe(1);
  });
});
