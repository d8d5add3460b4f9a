/**
 * What a client holds of one room's log, as a pure fold (spec, section 2.2).
 *
 *     1 … from ─────────── to … live …
 *         └─ items held ──┘    └ newest event received without a gap: what `resume` tells the server
 *
 * The stretch `from … to` has no gap. It ends at the newest entry unless one looks at older history.
 */

import type { Entry, Page } from "../protocol/messages";

export interface Message {
  kind: "message";
  seq: number;
  at: number;
  user: string;
  device?: string;
  cmid?: string;
  /** Empty once deleted. */
  body: string;
  replyTo?: number;
  /** `seq` of the newest edit, 0 for none. */
  edited: number;
  deleted: boolean;
  /** Emoji → users, in the order of arrival. */
  reactions: Readonly<Record<string, readonly string[]>>;
  /** All entries up to this `seq` are in this message already. */
  asOf: number;
}

export interface Notice {
  kind: "notice";
  seq: number;
  at: number;
  entry: Entry;
}

export type Item = Message | Notice;

export interface Log {
  from: number;
  to: number;
  live: number;
  /** Messages and notices of the stretch, oldest first. Entries that change a message are folded into it. */
  items: readonly Item[];
  /** The newest entries that changed a message: a page that was read before them is brought up to date with them. */
  changes: readonly Entry[];
  /** A gap was seen; events are dropped until the resume that was asked for brings them. */
  gap: boolean;
}

/** What became of an event. */
export type Outcome = "applied" | "repeated" | "gap";

const CHANGES_KEPT = 500;

export function emptyLog(live: number): Log {
  return { from: live + 1, to: live, live, items: [], changes: [], gap: false };
}

/** Return whether the stretch reaches the newest entry. */
export function isAttached(log: Log): boolean {
  return log.to >= log.live;
}

function itemOf(entry: Entry, asOf: number): Item | null {
  if (entry.type === "message.sent") {
    const deleted = entry.deleted !== undefined;
    return {
      kind: "message",
      seq: entry.seq,
      at: entry.at,
      user: entry.user,
      device: entry.device,
      cmid: entry.cmid,
      body: deleted ? "" : (entry.edited?.body ?? entry.body ?? ""),
      replyTo: entry.reply_to,
      edited: deleted ? 0 : (entry.edited?.seq ?? 0),
      deleted,
      reactions: deleted ? {} : (entry.reactions ?? {}),
      asOf,
    };
  }
  if (entry.target !== undefined) return null;
  return { kind: "notice", seq: entry.seq, at: entry.at, entry };
}

function withReaction(
  reactions: Message["reactions"],
  emoji: string,
  user: string,
  add: boolean,
): Message["reactions"] {
  const users = reactions[emoji] ?? [];
  if (users.includes(user) === add) return reactions;
  const next = add ? [...users, user] : users.filter((one) => one !== user);
  if (next.length) return { ...reactions, [emoji]: next };
  const { [emoji]: _gone, ...rest } = reactions;
  return rest;
}

/** Return the message after an entry that targets it. Entries it already contains change nothing. */
export function change(message: Message, entry: Entry): Message {
  if (entry.seq <= message.asOf || message.deleted) return message;
  const after = { ...message, asOf: entry.seq };
  switch (entry.type) {
    case "message.edited":
      if (entry.seq <= message.edited) return message;
      if (entry.body === undefined) return message;
      return { ...after, body: entry.body, edited: entry.seq };
    case "message.deleted":
      return { ...after, body: "", deleted: true, edited: 0, reactions: {} };
    case "reaction.added":
    case "reaction.removed":
      if (!entry.emoji) return message;
      return {
        ...after,
        reactions: withReaction(message.reactions, entry.emoji, entry.user, entry.type === "reaction.added"),
      };
    default:
      return message;
  }
}

/** Return the place of the item with this `seq`, or -1. */
export function placeOf(items: readonly Item[], seq: number): number {
  let low = 0;
  let high = items.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    const found = (items[middle] as Item).seq;
    if (found === seq) return middle;
    if (found < seq) low = middle + 1;
    else high = middle - 1;
  }
  return -1;
}

export function messageAt(log: Log, seq: number): Message | undefined {
  const item = log.items[placeOf(log.items, seq)];
  return item?.kind === "message" ? item : undefined;
}

function changeItems(items: readonly Item[], entries: readonly Entry[]): readonly Item[] {
  let next: Item[] | null = null;
  for (const entry of entries) {
    if (entry.target === undefined) continue;
    const place = placeOf(items, entry.target);
    const item = (next ?? items)[place];
    if (item?.kind !== "message") continue;
    const changed = change(item, entry);
    if (changed === item) continue;
    next ??= [...items];
    next[place] = changed;
  }
  return next ?? items;
}

/** Return the log as it will be when these entries have come, which have no place in it yet. */
export function withExpected(log: Log, entries: readonly Entry[]): Log {
  return entries.length ? { ...log, items: changeItems(log.items, entries) } : log;
}

/** Return the items after everything before a place of the log was erased. */
function eraseItems(items: readonly Item[], before: number): readonly Item[] {
  return items.map((item) =>
    item.kind === "message" && item.seq < before
      ? { ...item, asOf: before, body: "", deleted: true, edited: 0, reactions: {} }
      : item,
  );
}

/** Take an event in. */
export function receive(log: Log, entry: Entry): [Log, Outcome] {
  if (entry.seq <= log.live) return [log, "repeated"];
  if (entry.seq > log.live + 1) return [log.gap ? log : { ...log, gap: true }, "gap"];
  const attached = isAttached(log);
  const held = entry.seq <= log.to;
  let items = log.items;
  let changes = log.changes;
  if (entry.target !== undefined) {
    changes = [...changes.slice(-CHANGES_KEPT + 1), entry];
    items = changeItems(items, [entry]);
  }
  if (entry.type === "room.erased") items = eraseItems(items, entry.seq);
  // A message read from the store tells no `last_seq` here; what it already contains is in it twice without harm.
  const item = held || !attached ? null : itemOf(entry, entry.seq);
  if (item) items = [...items, item];
  const to = held || !attached ? log.to : entry.seq;
  return [{ ...log, items, changes, live: entry.seq, to, gap: false }, "applied"];
}

/** Begin anew at the next event, whatever its `seq`: the server said that it sends the newest page instead of everything. */
export function restart(next: Entry): Log {
  return emptyLog(next.seq - 1);
}

/** Return the page's items, with everything that this client knows beyond the page's `last_seq`. */
function itemsOf(log: Log, page: Page): readonly Item[] {
  const items: Item[] = [];
  for (const entry of page.entries) {
    const item = itemOf(entry, Math.max(page.last_seq, entry.seq));
    if (item) items.push(item);
  }
  return changeItems(items, log.changes);
}

const first = (page: Page) => page.entries[0]?.seq ?? 0;
const last = (page: Page) => page.entries.at(-1)?.seq ?? 0;

/** Show this page instead of what was held: opening a room, or jumping to a message. */
export function replaceWith(log: Log, page: Page): Log {
  if (!page.entries.length) return { ...log, from: log.live + 1, to: log.live, items: [] };
  return { ...log, from: first(page), to: last(page), items: itemsOf(log, page) };
}

/** Put an older page before what is held. An empty one says that the beginning is reached. */
export function prepend(log: Log, page: Page): Log {
  const entries = page.entries.filter((entry) => entry.seq < log.from);
  if (!entries.length) return { ...log, from: 1 };
  if (last({ ...page, entries }) !== log.from - 1) return log;
  return { ...log, from: (entries[0] as Entry).seq, items: [...itemsOf(log, { ...page, entries }), ...log.items] };
}

/** Put a newer page behind what is held. */
export function append(log: Log, page: Page): Log {
  const entries = page.entries.filter((entry) => entry.seq > log.to);
  if (!entries.length) return log;
  if (first({ ...page, entries }) !== log.to + 1) return log;
  return { ...log, to: last(page), items: [...log.items, ...itemsOf(log, { ...page, entries })] };
}

/** Drop items of the far end, so that no more than `most` are held. */
export function trim(log: Log, most: number, end: "old" | "new"): Log {
  if (log.items.length <= most) return log;
  if (end === "old") {
    const items = log.items.slice(-most);
    return { ...log, items, from: (items[0] as Item).seq };
  }
  const items = log.items.slice(0, most);
  return { ...log, items, to: (items.at(-1) as Item).seq };
}
