import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { KnownServer } from "../src/client/knownServer";
import { Storage } from "../src/client/storage";
import type { User } from "../src/protocol/messages";
import { Chat, failureOf } from "../src/state/chat";
import { messageAt } from "../src/state/log";
import { rowsOf } from "../src/state/rows";
import { type FakeRoom, FakeServer, FakeSocket } from "./fakeServer";

let server: FakeServer;
let room: FakeRoom;
let storage: Storage;
let database = 0;
const chats: Chat[] = [];

async function open(user = "usr_a", device = "dev_1", store = storage): Promise<Chat> {
  const ports = {
    open: () => new FakeSocket(server),
    url: "ws://here/gateway",
    server: new KnownServer(store, "here"),
    token: async () => `${user}/${device}`,
    random: () => 0,
    now: Date.now,
  };
  const chat = new Chat(server.users.get(user) as User, device, store, ports, () => {});
  chats.push(chat);
  await chat.start();
  return chat;
}

const until = (check: () => unknown) => vi.waitFor(() => expect(check()).toBeTruthy(), { timeout: 4_000, interval: 5 });
const isOnline = (chat: Chat) => chat.connection.value.phase === "online";
const bodies = (chat: Chat) =>
  (chat.timelines.of(room.id).log.value?.items ?? []).flatMap((item) => (item.kind === "message" ? [item.body] : []));
const sent = () => room.log.flatMap((entry) => (entry.type === "message.sent" ? [entry.body] : []));

beforeEach(async () => {
  server = new FakeServer();
  server.user("usr_a", "Ana", "owner");
  server.user("usr_b", "Ben");
  room = server.room("ops", ["usr_a", "usr_b"]);
  for (let count = 1; count <= 5; count += 1) server.append(room, "message.sent", "usr_b", { body: `old ${count}` });
  database += 1;
  storage = await Storage.open(`test-${database}`);
});

afterEach(() => {
  for (const chat of chats.splice(0)) chat.stop();
});

describe("a chat", () => {
  it("shows a room, its unread count and its New line, and marks it read", async () => {
    const chat = await open();
    await until(() => isOnline(chat));
    expect(chat.rooms.value.get(room.id)?.unread).toBe(5);
    await chat.open(room.id);
    expect(bodies(chat)).toHaveLength(5);
    expect(chat.timelines.of(room.id).newAfter.value).toBe(0);
    expect(chat.rooms.value.get(room.id)?.unread).toBe(5);
    chat.watch(room.id, true);
    await until(() => room.read.get("usr_a") === room.log.length);
    expect(chat.rooms.value.get(room.id)?.unread).toBe(0);
    expect(chat.activeWasUnread.value).toBe(true);
  });

  it("counts new messages of others, and takes the server's word", async () => {
    const chat = await open();
    await until(() => isOnline(chat));
    server.append(room, "message.sent", "usr_b", { body: "new" });
    await until(() => chat.rooms.value.get(room.id)?.unread === 6);
    server.append(room, "message.sent", "usr_a", { body: "mine", device: "dev_9" });
    await until(() => chat.rooms.value.get(room.id)?.lastSeq === room.log.length);
    expect(chat.rooms.value.get(room.id)?.unread).toBe(6);
    server.signal("usr_a", { type: "read.updated", room: room.id, read_seq: 4, unread: 2 });
    await until(() => chat.rooms.value.get(room.id)?.unread === 2);
  });

  it("sends in order and keeps the row of a message", async () => {
    const chat = await open();
    await until(() => isOnline(chat));
    await chat.open(room.id);
    for (const body of ["one", "two", "three"]) chat.send(room.id, body);
    const cmids = chat.pending.value.map((item) => item.cmid);
    await until(() => chat.pending.value.length === 0 && bodies(chat).length === 8);
    expect(sent().slice(-3)).toEqual(["one", "two", "three"]);
    const log = chat.timelines.of(room.id).log.value;
    if (!log) throw new Error("no log");
    const rows = rowsOf({
      log,
      pending: chat.acknowledged.value,
      me: "usr_a",
      device: "dev_1",
      newAfter: null,
      blocked: new Set(),
      unfolded: new Set(),
    });
    expect(rows.slice(-3).map((row) => row.key)).toEqual(cmids.map((cmid) => `c${cmid}`));
  });

  it("keeps what is written offline, over a reload, once each and in order", async () => {
    const first = await open();
    await until(() => isOnline(first));
    await first.open(room.id);
    server.isUp = false;
    server.dropAll();
    await until(() => !isOnline(first));
    for (let count = 0; count < 20; count += 1) first.send(room.id, `offline ${count}`);
    await vi.waitFor(async () => expect(await storage.all("outbox")).toHaveLength(20));
    first.stop();
    server.isUp = true;
    const second = await open();
    await until(() => sent().length === 25);
    expect(sent().slice(5)).toEqual(Array.from({ length: 20 }, (_, count) => `offline ${count}`));
    await until(() => second.pending.value.length === 0);
    expect(await storage.all("outbox")).toEqual([]);
  });

  it("sends once when the answer was lost", async () => {
    const chat = await open();
    await until(() => isOnline(chat));
    await chat.open(room.id);
    const message = vi.spyOn(FakeSocket.prototype, "send");
    message.mockImplementationOnce(function (this: FakeSocket, text: string | Uint8Array) {
      // The server takes it, and the connection ends before its answer.
      (this as unknown as { link: { message(text: string): void } }).link.message(String(text));
      server.dropAll();
    });
    chat.send(room.id, "only once");
    await until(() => chat.pending.value.length === 0 && bodies(chat).includes("only once"));
    expect(sent().filter((body) => body === "only once")).toHaveLength(1);
    expect(bodies(chat).filter((body) => body === "only once")).toHaveLength(1);
    message.mockRestore();
  });

  it("marks only the refused message, and sends the later ones", async () => {
    const chat = await open();
    await until(() => isOnline(chat));
    server.refuse = (frame) =>
      frame.body === "bad" ? { code: "forbidden", status: 403, detail: "You may not." } : null;
    chat.send(room.id, "bad");
    chat.send(room.id, "good");
    await until(() => sent().includes("good"));
    await until(() => chat.pending.value.length === 1);
    expect(chat.pending.value[0]).toMatchObject({ body: "bad", refused: "You may not." });
    server.refuse = () => null;
    chat.retry(chat.pending.value[0]?.cmid ?? "");
    await until(() => sent().includes("bad") && chat.pending.value.length === 0);
  });

  it("waits and tries again when the server says that it can be tried again", async () => {
    const chat = await open();
    await until(() => isOnline(chat));
    let refusals = 2;
    server.refuse = (frame) => {
      if (frame.op !== "message.send" || refusals === 0) return null;
      refusals -= 1;
      return { code: "unavailable", status: 503, detail: "Later.", retryable: true };
    };
    chat.send(room.id, "first");
    chat.send(room.id, "second");
    await until(() => sent().length === 7);
    expect(sent().slice(-2)).toEqual(["first", "second"]);
  });

  it("shows changes made offline at once, and makes each once and in order after a reload", async () => {
    const first = await open();
    await until(() => isOnline(first));
    const mine = server.append(room, "message.sent", "usr_a", { body: "mine", device: "dev_1" }).seq;
    const other = mine - 1;
    await first.open(room.id);
    server.isUp = false;
    server.dropAll();
    await until(() => !isOnline(first));
    first.change(room.id, { op: "message.edit", seq: mine }, "mine, once more");
    first.change(room.id, { op: "message.edit", seq: mine }, "mine, at last");
    first.change(room.id, { op: "reaction.add", seq: mine, emoji: "👍" });
    first.change(room.id, { op: "reaction.remove", seq: mine, emoji: "👍" });
    first.change(room.id, { op: "message.delete", seq: other });
    const shown = (seq: number) => {
      const log = first.logOf(room.id);
      return log && messageAt(log, seq);
    };
    expect(shown(mine)).toMatchObject({ body: "mine, at last", reactions: {} });
    expect(shown(other)).toMatchObject({ body: "", deleted: true });
    await vi.waitFor(async () => expect(await storage.all("outbox")).toHaveLength(5));
    first.stop();
    server.isUp = true;
    const before = room.log.length;
    const second = await open();
    await until(() => second.pending.value.length === 0);
    expect(room.log.slice(before).map(({ type, target, body }) => [type, target, body ?? ""])).toEqual([
      ["message.edited", mine, "mine, once more"],
      ["message.edited", mine, "mine, at last"],
      ["reaction.added", mine, ""],
      ["reaction.removed", mine, ""],
      ["message.deleted", other, ""],
    ]);
  });

  it("makes a change once when the answer was lost", async () => {
    const chat = await open();
    await until(() => isOnline(chat));
    const { seq } = server.append(room, "message.sent", "usr_a", { body: "mine", device: "dev_1" });
    const message = vi.spyOn(FakeSocket.prototype, "send");
    message.mockImplementationOnce(function (this: FakeSocket, text: string | Uint8Array) {
      (this as unknown as { link: { message(text: string): void } }).link.message(String(text));
      server.dropAll();
    });
    chat.change(room.id, { op: "message.edit", seq }, "changed");
    await until(() => chat.pending.value.length === 0);
    expect(room.log.filter((entry) => entry.type === "message.edited")).toHaveLength(1);
    message.mockRestore();
  });

  it("keeps the words of a refused edit, and tells of a refused reaction", async () => {
    const chat = await open();
    await until(() => isOnline(chat));
    await chat.open(room.id);
    const seq = room.log.length;
    server.refuse = (frame) =>
      frame.op.startsWith("message.edit") || frame.op === "reaction.add"
        ? { code: "conflict", status: 409, detail: "The message was deleted." }
        : null;
    chat.change(room.id, { op: "reaction.add", seq, emoji: "👍" });
    await until(() => chat.toast.value?.text === "Reaction not sent: The message was deleted.");
    expect(chat.pending.value).toEqual([]);
    chat.change(room.id, { op: "message.edit", seq }, "better words");
    await until(() => chat.pending.value[0]?.refused);
    const [item] = chat.pending.value;
    expect(item && failureOf(item)).toBe("Edit not saved: The message was deleted.");
    expect(bodies(chat).at(-1)).toBe("old 5");
    const log = chat.logOf(room.id);
    if (!log || !item) throw new Error("nothing there");
    const rows = rowsOf({
      log,
      pending: chat.pending.value,
      me: "usr_a",
      device: "dev_1",
      newAfter: null,
      blocked: new Set(),
      unfolded: new Set(),
    });
    expect(rows.at(-1)).toMatchObject({ type: "pending", message: { body: "better words", replyTo: seq } });
    chat.drafts.write(room.id, "something else");
    const taken = chat.unsend(item.cmid);
    if (taken) chat.drafts.takeBack(taken);
    expect(chat.drafts.of(room.id).value).toMatchObject({ text: "better words", editing: seq });
    chat.drafts.cancel(room.id);
    expect(chat.drafts.of(room.id).value.text).toBe("something else");
  });

  it("puts a message that was taken back before what was begun meanwhile", async () => {
    const chat = await open();
    chat.drafts.write(room.id, "begun");
    chat.drafts.takeBack({ cmid: "1", user: "usr_a", room: room.id, body: "refused", replyTo: 3, at: 0, tab: "" });
    expect(chat.drafts.of(room.id).value).toEqual({ text: "refused\nbegun", replyTo: 3 });
  });

  it("closes a gap by itself", async () => {
    const chat = await open();
    await until(() => isOnline(chat));
    await chat.open(room.id);
    server.loseEvents = true;
    server.append(room, "message.sent", "usr_b", { body: "lost" });
    const target = room.log.length;
    server.append(room, "reaction.added", "usr_b", { target, emoji: "👍" });
    server.loseEvents = false;
    server.append(room, "message.sent", "usr_b", { body: "seen" });
    await until(() => bodies(chat).at(-1) === "seen");
    expect(bodies(chat).slice(-2)).toEqual(["lost", "seen"]);
    const log = chat.timelines.of(room.id).log.value;
    expect(log && messageAt(log, target)?.reactions).toEqual({ "👍": ["usr_b"] });
  });

  it("takes up where it was after a lost connection", async () => {
    const chat = await open();
    await until(() => isOnline(chat));
    await chat.open(room.id);
    server.isUp = false;
    server.dropAll();
    await until(() => !isOnline(chat));
    for (let count = 0; count < 3; count += 1) server.append(room, "message.sent", "usr_b", { body: `away ${count}` });
    server.isUp = true;
    chat.retryNow();
    await until(() => bodies(chat).length === 8);
    const [auth] = server.received.filter((frame) => frame.op === "auth").slice(-1);
    expect(auth?.resume).toEqual({ [room.id]: 8 });
    expect(chat.rooms.value.get(room.id)?.unread).toBe(8);
  });

  it("keeps the rooms that the server cannot have right now, and takes up again where it was", async () => {
    const chat = await open();
    await until(() => isOnline(chat));
    await chat.open(room.id);
    expect(chat.isComplete.value).toBe(true);
    server.silent.add(room.id);
    server.dropAll();
    await until(() => !chat.isComplete.value && isOnline(chat));
    expect(chat.rooms.value.get(room.id)?.name).toBe("ops");
    expect(bodies(chat)).toHaveLength(5);
    server.loseEvents = true;
    server.append(room, "message.sent", "usr_b", { body: "meanwhile" });
    server.loseEvents = false;
    server.silent.clear();
    server.dropAll(4000);
    await until(() => chat.isComplete.value && bodies(chat).length === 6);
    server.rooms.delete(room.id);
    server.dropAll();
    await until(() => !chat.rooms.value.has(room.id));
  });

  it("shows the newest page when it was away for too long", async () => {
    const chat = await open();
    await until(() => isOnline(chat));
    await chat.open(room.id);
    server.resumeEntries = 10;
    server.isUp = false;
    server.dropAll();
    await until(() => !isOnline(chat));
    for (let count = 0; count < 80; count += 1) server.append(room, "message.sent", "usr_b", { body: `away ${count}` });
    server.isUp = true;
    chat.retryNow();
    await until(() => bodies(chat).at(-1) === "away 79");
    expect(bodies(chat)).toHaveLength(50);
    await chat.timelines.older(room.id);
    await chat.timelines.older(room.id);
    expect(chat.timelines.of(room.id).isComplete).toBe(true);
    expect(bodies(chat)).toHaveLength(85);
  });

  it("follows rooms that open and close, and people that change", async () => {
    const chat = await open();
    await until(() => isOnline(chat));
    const other = await open("usr_b", "dev_2", await Storage.open(`test-other-${database}`));
    await until(() => isOnline(other));
    const direct = chat.opened(await chat.call("room.direct", { user: "usr_b" }));
    await until(() => other.rooms.value.has(direct.id));
    expect(other.rooms.value.get(direct.id)?.peer?.display_name).toBe("Ana");
    await chat.call("user.update", { display_name: "Anna" });
    await until(() => other.rooms.value.get(direct.id)?.peer?.display_name === "Anna");
    await until(() => chat.people.online.value.has("usr_b"));
    await chat.call("member.remove", { room: room.id, user: "usr_b" });
    await until(() => !other.rooms.value.has(room.id));
    other.typing(direct.id);
    await until(() => chat.people.typing.value.get(direct.id)?.includes("usr_b"));
  });

  it("keeps drafts, but not what was being edited", async () => {
    const chat = await open();
    chat.drafts.write(room.id, "half a sent");
    chat.drafts.edit(room.id, 4, "an old message");
    chat.drafts.flush();
    await vi.waitFor(async () => expect(await storage.keys("drafts")).toHaveLength(1));
    const again = await open();
    expect(again.drafts.of(room.id).value).toEqual({ text: "half a sent" });
    chat.drafts.cancel(room.id);
    expect(chat.drafts.of(room.id).value.text).toBe("half a sent");
  });

  it("announces messages of others, and counts them when they come fast", async () => {
    const chat = await open();
    await until(() => isOnline(chat));
    await chat.open(room.id);
    for (let count = 0; count < 8; count += 1) server.append(room, "message.sent", "usr_b", { body: `fast ${count}` });
    await until(() => chat.announcer.spoken.value.some((one) => one.text === "5 new messages in ops"));
    expect(chat.announcer.spoken.value).toHaveLength(4);
  });
});
