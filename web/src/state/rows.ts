/** The timeline as rows: days, the "New" line, groups, notices, folded messages, messages on their way. */

import type { OutboxItem } from "../client/storage";
import type { Entry } from "../protocol/messages";
import type { Log, Message, Notice } from "./log";

const GROUP_MS = 5 * 60_000;

export interface DayRow {
  type: "day";
  key: string;
  at: number;
}

export interface NewRow {
  type: "new";
  key: "new";
}

export interface StartRow {
  type: "start";
  key: "start";
}

export interface NoticeRow {
  type: "notice";
  key: string;
  seq: number;
  at: number;
  entry: Entry;
}

export interface MessageRow {
  type: "message";
  key: string;
  message: Message;
  /** Shows avatar, name and time; the rows after it do not. */
  head: boolean;
}

/** Messages of people whom one has blocked, in a row. */
export interface FoldedRow {
  type: "folded";
  key: string;
  seq: number;
  count: number;
}

export interface PendingItem extends OutboxItem {
  /** The server has it, under this `seq`. */
  seq?: number;
}

export interface PendingRow {
  type: "pending";
  key: string;
  item: PendingItem;
  /** The item as the message that it will be; its `seq` is 0. */
  message: Message;
  head: boolean;
}

export type Row = DayRow | NewRow | StartRow | NoticeRow | MessageRow | FoldedRow | PendingRow;

export interface RowsInput {
  log: Log;
  pending: readonly PendingItem[];
  me: string;
  device: string;
  /** How far one had read when the room was opened; the "New" line stands after it. Null for no line. */
  newAfter: number | null;
  blocked: ReadonlySet<string>;
  /** Keys of folded rows that one has opened. */
  unfolded: ReadonlySet<string>;
}

const dayOf = (at: number) => new Date(at).toDateString();

/** Own messages are known by `cmid` from the moment they are written, so that their row keeps its element when they arrive. */
export function keyOf(message: Message, me: string, device: string): string {
  const own = message.user === me && message.device === device && message.cmid;
  return own ? `c${message.cmid}` : `s${message.seq}`;
}

class Rows {
  readonly rows: Row[] = [];
  private day = "";
  private author = "";
  private lastAt = 0;
  /** The last message was a blocked user's that one has opened: those that follow it are open too. */
  openRun = false;

  /** Begin a new day where one does. */
  at(at: number, id: string): void {
    const day = dayOf(at);
    if (day === this.day) return;
    this.day = day;
    this.author = "";
    this.rows.push({ type: "day", key: `d${id}`, at });
  }

  isHead(user: string, at: number, reply: boolean): boolean {
    const head = reply || user !== this.author || at - this.lastAt > GROUP_MS;
    this.author = user;
    this.lastAt = at;
    return head;
  }

  breakGroup(): void {
    this.author = "";
  }
}

/** Return the rows, oldest first. */
export function rowsOf(input: RowsInput): Row[] {
  const { log, me, device, blocked, unfolded } = input;
  const build = new Rows();
  if (log.from <= 1) build.rows.push({ type: "start", key: "start" });
  const arrived = new Set<string>();
  let newAfter = input.newAfter;
  let created: Notice | undefined;
  for (const item of log.items) {
    build.at(item.at, `${item.seq}`);
    if (item.kind === "notice") {
      if (item.entry.type === "room.created") created = item;
      if (created && isPartOf(created, item)) continue;
      build.breakGroup();
      build.rows.push({ type: "notice", key: `s${item.seq}`, seq: item.seq, at: item.at, entry: item.entry });
      continue;
    }
    if (item.device === device && item.cmid) arrived.add(item.cmid);
    if (newAfter !== null && item.seq > newAfter && item.user !== me) {
      newAfter = null;
      build.breakGroup();
      build.rows.push({ type: "new", key: "new" });
    }
    if (!blocked.has(item.user)) build.openRun = false;
    else if (fold(build, item, unfolded)) continue;
    const head = build.isHead(item.user, item.at, item.replyTo !== undefined);
    build.rows.push({ type: "message", key: keyOf(item, me, device), message: item, head });
  }
  for (const item of input.pending) {
    // A change is seen in its message; one that was refused is words that nobody has.
    if (item.change && !item.refused) continue;
    if (arrived.has(item.cmid) || (item.seq !== undefined && item.seq <= log.live)) continue;
    build.at(item.at, item.cmid);
    const message = messageOf(item);
    const head = build.isHead(me, item.at, message.replyTo !== undefined);
    build.rows.push({ type: "pending", key: `c${item.cmid}`, item, message, head });
  }
  return build.rows;
}

/** Return whether somebody joined by the making of the room: whoever made it, and both people of a direct room. */
function isPartOf(created: Notice, { at, entry }: Notice): boolean {
  if (entry.type !== "member.joined" || at !== created.at) return false;
  return created.entry.kind === "direct" || entry.member === created.entry.user;
}

function messageOf(item: PendingItem): Message {
  const { user, at, body, cmid, change } = item;
  const replyTo = item.replyTo ?? change?.seq;
  return { kind: "message", seq: 0, at, user, body, cmid, replyTo, edited: 0, deleted: false, reactions: {}, asOf: 0 };
}

/** Put a blocked user's message into a folded row; return false if that row was opened. */
function fold(build: Rows, message: Message, unfolded: ReadonlySet<string>): boolean {
  const before = build.rows.at(-1);
  if (before?.type === "folded") {
    build.rows[build.rows.length - 1] = { ...before, count: before.count + 1 };
    return true;
  }
  const key = `f${message.seq}`;
  if (build.openRun || unfolded.has(key)) {
    build.openRun = true;
    return false;
  }
  build.breakGroup();
  build.rows.push({ type: "folded", key, seq: message.seq, count: 1 });
  return true;
}

/** Return the `seq` that a row stands for, or null. */
export function seqOf(row: Row): number | null {
  if (row.type === "message") return row.message.seq;
  if (row.type === "notice" || row.type === "folded") return row.seq;
  return null;
}
