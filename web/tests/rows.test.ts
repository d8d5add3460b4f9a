import { describe, expect, it } from "vitest";
import type { OutboxItem } from "../src/client/storage";
import type { Entry } from "../src/protocol/messages";
import { emptyLog, type Log, receive } from "../src/state/log";
import { type RowsInput, rowsOf } from "../src/state/rows";

const DAY = 86_400_000;
const noon = new Date(2026, 5, 1, 12).getTime();

function logOf(messages: [user: string, at: number, more?: Partial<Entry>][]): Log {
  return messages.reduce((log, [user, at, more], index) => {
    const entry: Entry = { type: "message.sent", room: "rm", seq: index + 1, at, user, body: `m${index + 1}`, ...more };
    return receive(log, entry)[0];
  }, emptyLog(0));
}

function rows(input: Partial<RowsInput> & { log: Log }) {
  return rowsOf({
    pending: [],
    me: "me",
    device: "dev",
    newAfter: null,
    blocked: new Set(),
    unfolded: new Set(),
    ...input,
  });
}

const words = (input: Partial<RowsInput> & { log: Log }) =>
  rows(input).map((row) => {
    if (row.type === "message") return `${row.head ? "+" : ""}${row.message.body}`;
    if (row.type === "pending") return `${row.head ? "+" : ""}pending ${row.item.body}`;
    return row.type === "folded" ? `folded ${row.count}` : row.type;
  });

const item = (cmid: string, body: string, more: Partial<OutboxItem> = {}): OutboxItem => ({
  cmid,
  user: "me",
  room: "rm",
  body,
  at: noon + 9_000,
  tab: "t",
  ...more,
});

describe("rows", () => {
  it("group what one person writes within five minutes", () => {
    const log = logOf([
      ["a", noon],
      ["a", noon + 60_000],
      ["a", noon + 60_000 * 7],
      ["b", noon + 60_000 * 8],
      ["b", noon + 60_000 * 9, { reply_to: 1 }],
    ]);
    expect(words({ log })).toEqual(["start", "day", "+m1", "m2", "+m3", "+m4", "+m5"]);
  });

  it("separate days", () => {
    const log = logOf([
      ["a", noon],
      ["a", noon + DAY],
    ]);
    expect(words({ log })).toEqual(["start", "day", "+m1", "day", "+m2"]);
  });

  it("draw the New line before the first message of others after the mark", () => {
    const log = logOf([
      ["a", noon],
      ["me", noon + 1_000],
      ["a", noon + 2_000],
    ]);
    expect(words({ log, newAfter: 1 })).toEqual(["start", "day", "+m1", "+m2", "new", "+m3"]);
    expect(words({ log, newAfter: 3 })).not.toContain("new");
  });

  it("fold blocked people, and open a run as a whole", () => {
    const log = logOf([
      ["a", noon],
      ["x", noon + 1_000],
      ["x", noon + 2_000],
      ["a", noon + 3_000],
    ]);
    const blocked = new Set(["x"]);
    expect(words({ log, blocked })).toEqual(["start", "day", "+m1", "folded 2", "+m4"]);
    const open = words({ log, blocked, unfolded: new Set(["f2"]) });
    expect(open).toEqual(["start", "day", "+m1", "+m2", "m3", "+m4"]);
  });

  it("keep the key of an own message from writing it to its arrival", () => {
    const pending = [item("c9", "mine")];
    const before = rows({ log: logOf([["a", noon]]), pending });
    const log = logOf([
      ["a", noon],
      ["me", noon + 9_000, { device: "dev", cmid: "c9", body: "mine" }],
    ]);
    const after = rows({ log, pending });
    expect(before.at(-1)?.key).toBe("cc9");
    expect(after.at(-1)?.key).toBe("cc9");
    expect(after.filter((row) => row.key === "cc9")).toHaveLength(1);
  });

  it("hide what is acknowledged and beyond what is held", () => {
    const log = logOf([["a", noon]]);
    expect(words({ log, pending: [{ ...item("c1", "x"), seq: 2 }] })).toContain("+pending x");
    expect(words({ log, pending: [{ ...item("c1", "x"), seq: 1 }] })).not.toContain("+pending x");
  });

  it("have different keys", () => {
    const log = logOf([
      ["a", noon],
      ["a", noon + DAY],
      ["a", noon],
    ]);
    const keys = rows({ log, pending: [item("c1", "x"), item("c2", "y")] }).map((row) => row.key);
    expect(new Set(keys).size).toBe(keys.length);
  });

  it("leaves out who joined by the making of the room", () => {
    const notice = (type: Entry["type"], more: Partial<Entry>): [string, number, Partial<Entry>] => [
      "me",
      noon,
      { type, body: undefined, ...more },
    ];
    const created = notice("room.created", { kind: "private" });
    const mine = notice("member.joined", { member: "me" });
    const theirs = notice("member.joined", { member: "you" });
    expect(words({ log: logOf([created, mine, theirs]) })).toEqual(["start", "day", "notice", "notice"]);
    const later: typeof mine = ["me", noon + 1, { type: "member.joined", body: undefined, member: "me" }];
    expect(words({ log: logOf([created, later]) })).toEqual(["start", "day", "notice", "notice"]);
    const direct = notice("room.created", { kind: "direct" });
    expect(words({ log: logOf([direct, mine, theirs]) })).toEqual(["start", "day", "notice"]);
  });
});
