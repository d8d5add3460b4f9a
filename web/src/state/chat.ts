/** Everything that is known while signed in, and everything one can do. The screens read its signals and call its methods. */

import { batch, computed, type Signal, signal } from "@preact/signals";
import type { Seal } from "../client/channel";
import { Connection, type Link, type Listener, type Ports } from "../client/connection";
import { Outbox } from "../client/outbox";
import { sentence } from "../client/problem";
import type { Change, OutboxItem, Storage } from "../client/storage";
import {
  type CommandName,
  type Commands,
  DEFAULT_LIMITS,
  type Entry,
  type EntryType,
  type HelloFrame,
  type Limits,
  type ReadyFrame,
  type RoomSummary,
  type Sent,
  type SignalFrame,
  type User,
} from "../protocol/messages";
import { Announcer } from "./announcer";
import { Drafts } from "./drafts";
import { isAttached, type Log, withExpected } from "./log";
import { People } from "./people";
import { type Room, type Rooms, roomOf, roomsOf, titleOf, withEntry, withoutRoom, withRead, withRoom } from "./rooms";
import type { PendingItem } from "./rows";
import { Timelines } from "./timelines";

const MARK_AFTER_MS = 150;
const CATCHING_UP_AFTER_MS = 500;
const CATCHING_UP_AT_MOST_MS = 8_000;
const TYPING_EVERY_MS = 3_000;
/** Larger than every `seq`: changes on their way come after all that is known. */
const BEYOND_SEQ = 2 ** 52;

export interface Toast {
  id: number;
  text: string;
  isError: boolean;
}

/** What a change becomes in the log, and what one is told when it cannot. */
const CHANGES: Record<Change["op"], { type: EntryType; failure: string }> = {
  "message.edit": { type: "message.edited", failure: "Edit not saved" },
  "message.delete": { type: "message.deleted", failure: "Not deleted" },
  "reaction.add": { type: "reaction.added", failure: "Reaction not sent" },
  "reaction.remove": { type: "reaction.removed", failure: "Reaction not taken back" },
};

/** Return why something was not sent, as a sentence. */
export function failureOf(item: OutboxItem, why = item.refused ?? ""): string {
  return `${item.change ? CHANGES[item.change.op].failure : "Not sent"}: ${why}`;
}

export type ChatPorts = Omit<Ports, "held">;

export class Chat implements Listener {
  readonly me: Signal<User>;
  readonly serverName = signal("SecureChat");
  readonly limits: Signal<Limits> = signal(DEFAULT_LIMITS);
  readonly connection: Signal<Link> = signal({ phase: "connecting" });
  /** How the connection is sealed; null before the first one. */
  readonly seal: Signal<Seal | null> = signal(null);
  readonly isCatchingUp = signal(false);
  /** Since when there is no connection, in milliseconds since 1970, or null. */
  readonly offlineSince: Signal<number | null> = signal(null);
  readonly isLoaded = signal(false);
  /** Whether the server could tell all rooms; else the others are those that were known before. */
  readonly isComplete = signal(true);
  readonly rooms: Signal<Rooms> = signal(new Map());
  readonly blocked: Signal<ReadonlySet<string>> = signal(new Set());
  readonly pending: Signal<readonly OutboxItem[]> = signal([]);
  /** Messages that the server has and whose own event is still to come. */
  readonly acknowledged: Signal<readonly PendingItem[]> = signal([]);
  readonly activeId: Signal<string | null> = signal(null);
  readonly activeWasUnread = signal(false);
  readonly toast: Signal<Toast | null> = signal(null);
  readonly unreadTotal = computed(() => {
    let total = 0;
    for (const room of this.rooms.value.values()) total += room.unread;
    return total;
  });
  readonly people: People;
  readonly timelines: Timelines;
  readonly drafts: Drafts;
  readonly announcer = new Announcer();
  device: string;
  private readonly gateway: Connection;
  private readonly outbox: Outbox;
  /** The room whose newest message is before the user's eyes. */
  private watched: string | null = null;
  /** The room whose "New" line is drawn: once for each visit. */
  private prepared: string | null = null;
  private markTimer: ReturnType<typeof setTimeout> | undefined;
  private lastTypingAt = 0;
  private lastToast = 0;
  private expected = new Map<string, number>();
  private catchingUpTimers: ReturnType<typeof setTimeout>[] = [];

  constructor(
    user: User,
    device: string,
    storage: Storage,
    private readonly ports: ChatPorts,
    private readonly onSignedOut: () => void,
  ) {
    this.me = signal(user);
    this.device = device;
    this.gateway = new Connection({ ...ports, held: () => this.timelines.held() }, this);
    this.people = new People(this.gateway);
    this.people.learn([user]);
    this.timelines = new Timelines(this.gateway, (room) => this.rooms.peek().get(room)?.lastSeq ?? 0);
    this.drafts = new Drafts(user.id, storage);
    this.outbox = new Outbox(user.id, storage, {
      send: (item) => this.deliver(item),
      isOnline: () => this.gateway.isOnline,
      changed: (items) => {
        this.pending.value = items;
      },
      // Until the own event is here the row stays: both are one row, known by `cmid`.
      sent: (item, sent) => this.keepUntilSeen(item, sent.seq),
      // Words that were refused stand in their room.
      refused: (item, why) => {
        if (!item.body || item.room !== this.activeId.peek()) this.tell(failureOf(item, why), true);
      },
      random: ports.random,
      now: ports.now,
    });
  }

  async start(): Promise<void> {
    await Promise.all([this.drafts.load(), this.outbox.load()]);
    this.gateway.start();
  }

  stop(): void {
    this.drafts.flush();
    this.gateway.stop();
    this.outbox.stop();
  }

  retryNow(): void {
    this.gateway.retryNow();
  }

  /** Trust the key that the server shows now: somebody compared it. */
  async acceptKey(keyId: string): Promise<void> {
    await this.ports.server.accept(keyId);
    this.gateway.restart();
  }

  /** Ask again after the connection was stopped. */
  restart(): void {
    this.gateway.restart();
  }

  /** The computer woke up, the tab came back, or the network changed. */
  check(): void {
    this.gateway.check();
    void this.outbox.adopt();
  }

  call<N extends CommandName>(op: N, args: Commands[N]["args"]): Promise<Commands[N]["reply"]> {
    return this.gateway.call(op, args);
  }

  /** Do something whose failure is told in a toast; return whether it worked. */
  async attempt(work: Promise<unknown>): Promise<boolean> {
    try {
      await work;
      return true;
    } catch (error) {
      this.tell(sentence(error), true);
      return false;
    }
  }

  tell(text: string, isError = false): void {
    this.lastToast += 1;
    this.toast.value = { id: this.lastToast, text, isError };
  }

  // ── What the connection tells ──────────────────────────────────────────────────────────────────────────────────────

  link(link: Link): void {
    batch(() => {
      this.connection.value = link;
      if (link.phase === "online") this.offlineSince.value = null;
      else if (this.isLoaded.value) this.offlineSince.value ??= this.ports.now();
    });
    if (link.phase === "stopped" && link.reason === "signed_out") this.onSignedOut();
    if (link.phase === "online") this.online();
  }

  sealed(seal: Seal): void {
    this.seal.value = seal;
  }

  hello(frame: HelloFrame): void {
    this.serverName.value = frame.server || "SecureChat";
    this.limits.value = { ...DEFAULT_LIMITS, ...frame.limits };
  }

  ready(frame: ReadyFrame): void {
    const wasLoaded = this.isLoaded.value;
    batch(() => {
      this.device = frame.device;
      this.me.value = frame.user;
      this.blocked.value = new Set(frame.blocked);
      this.expected = new Map(frame.rooms.map((room) => [room.id, room.last_seq ?? 0]));
      const isComplete = frame.complete !== false;
      this.isComplete.value = isComplete;
      this.timelines.ready(frame.rooms, isComplete);
      const told = roomsOf(frame.rooms);
      // Where a database does not answer: what is not told is not gone.
      this.rooms.value = isComplete ? told : new Map([...this.rooms.value, ...told]);
      this.isLoaded.value = true;
    });
    const peers = frame.rooms.flatMap((room) => (room.peer ? [room.peer] : []));
    this.people.ready([frame.user, ...peers]);
    if (wasLoaded) this.beginCatchingUp();
  }

  entry(entry: Entry): void {
    const outcome = this.timelines.receive(entry);
    this.checkCaughtUp();
    if (outcome !== "applied") return;
    const me = this.me.value.id;
    this.rooms.value = withEntry(this.rooms.value, entry, me);
    this.forgetSeen(entry);
    if (entry.type === "message.deleted") this.announcer.forget(`${entry.room}/${entry.target}`);
    if (entry.type !== "message.sent") return;
    this.people.stopTyping(entry.room, entry.user);
    if (entry.room !== this.activeId.value) return;
    if (entry.user !== me && !this.blocked.value.has(entry.user)) {
      const room = this.rooms.value.get(entry.room);
      const where = room ? titleOf(room) : "this room";
      this.announcer.message(this.people.name(entry.user), entry.body ?? "", where, `${entry.room}/${entry.seq}`);
    }
    this.scheduleMark();
  }

  signal(frame: SignalFrame): void {
    const { room, user } = frame;
    switch (frame.type) {
      case "typing.started":
        if (room && user && user !== this.me.value.id) this.people.startTyping(room, user);
        break;
      case "presence.changed":
        if (frame.presence) this.people.present(frame.presence);
        break;
      case "read.updated":
        if (room) this.rooms.value = withRead(this.rooms.value, room, frame.read_seq ?? 0, frame.unread ?? 0);
        break;
      case "room.opened":
        if (frame.summary) this.opened(frame.summary);
        break;
      case "room.closed":
        if (room) this.closed(room);
        break;
      case "user.updated":
        if (frame.person) this.updated(frame.person);
        break;
      default:
    }
  }

  // ── Looking ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Look at a room, or at none. */
  async open(id: string | null): Promise<void> {
    const left = this.activeId.value;
    const room = id ? this.rooms.value.get(id) : undefined;
    if (left !== id) {
      this.prepared = null;
      const timeline = left ? this.timelines.peek(left) : undefined;
      if (timeline) timeline.newAfter.value = null;
    }
    this.activeId.value = id;
    if (!id || !room) return;
    if (this.prepared !== id) {
      this.prepared = id;
      this.activeWasUnread.value = room.unread > 0;
      this.timelines.of(id).newAfter.value = room.unread ? room.readSeq : null;
    }
    if (this.gateway.isOnline) await this.timelines.open(id);
    this.scheduleMark();
  }

  /** The timeline of a room tells whether its newest message is visible in a focused window. */
  watch(room: string, isWatching: boolean): void {
    if (isWatching) this.watched = room;
    else if (this.watched === room) this.watched = null;
    this.scheduleMark();
  }

  // ── Doing ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  send(room: string, body: string, replyTo?: number): void {
    this.outbox.add({ room, body, replyTo });
    const timeline = this.timelines.of(room);
    timeline.newAfter.value = null;
    const log = timeline.log.value;
    if (log && !isAttached(log)) void this.timelines.open(room);
  }

  /** Edit or delete a message, or react to it: seen at once, sent when it can be. */
  change(room: string, change: Change, body = ""): void {
    this.outbox.add({ room, body, change });
  }

  /** Return the room's log with the changes that are on their way. */
  logOf(room: string): Log | null {
    const log = this.timelines.of(room).log.value;
    if (!log) return null;
    const expected = [...this.acknowledged.value, ...this.pending.value].flatMap((item, place): Entry[] => {
      const { change, at } = item;
      if (!change || item.room !== room || item.refused) return [];
      const { type } = CHANGES[change.op];
      const words = change.op === "message.edit" ? { body: item.body } : { emoji: change.emoji };
      return [{ type, room, seq: BEYOND_SEQ + place, at, user: this.me.value.id, target: change.seq, ...words }];
    });
    return withExpected(log, expected);
  }

  retry(cmid: string): void {
    this.outbox.retry(cmid);
  }

  unsend(cmid: string): OutboxItem | undefined {
    return this.outbox.remove(cmid);
  }

  typing(room: string): void {
    const now = this.ports.now();
    if (now - this.lastTypingAt < TYPING_EVERY_MS || !this.gateway.isOnline) return;
    this.lastTypingAt = now;
    this.gateway.command("typing.start", { room }, () => {});
  }

  /** The next keystroke tells the others again. */
  stopTyping(): void {
    this.lastTypingAt = 0;
  }

  async block(user: string, isBlocked: boolean): Promise<void> {
    await this.call(isBlocked ? "user.block" : "user.unblock", { user });
    const blocked = new Set(this.blocked.value);
    if (isBlocked) blocked.add(user);
    else blocked.delete(user);
    this.blocked.value = blocked;
  }

  /** Take in a room that a reply told of; the `room.opened` signal may come before or after it. */
  opened(summary: RoomSummary): Room {
    const room = this.rooms.value.get(summary.id);
    const next = roomOf(summary);
    if (summary.peer) this.people.learn([summary.peer]);
    if (room && room.lastSeq > next.lastSeq) return room;
    this.rooms.value = withRoom(this.rooms.value, next);
    if (!room && this.activeId.value === summary.id) void this.open(summary.id);
    return next;
  }

  closed(id: string): void {
    this.timelines.forget(id);
    this.rooms.value = withoutRoom(this.rooms.value, id);
  }

  // ── Inside ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  private online(): void {
    void this.outbox.adopt();
    const active = this.activeId.value;
    if (active) void this.open(active);
    this.scheduleMark();
  }

  private deliver({ room, cmid, body, replyTo, change }: OutboxItem): Promise<Sent> {
    if (!change) return this.call("message.send", { room, cmid, body, ...(replyTo && { reply_to: replyTo }) });
    const { op, seq, emoji = "" } = change;
    if (op === "message.edit") return this.call(op, { room, seq, cmid, body });
    if (op === "message.delete") return this.call(op, { room, seq, cmid });
    return this.call(op, { room, seq, cmid, emoji });
  }

  private keepUntilSeen(item: OutboxItem, seq: number): void {
    const log = this.timelines.peek(item.room)?.log.value;
    if (log && log.live < seq) this.acknowledged.value = [...this.acknowledged.value, { ...item, seq }];
  }

  private forgetSeen(entry: Entry): void {
    if (!this.acknowledged.value.length) return;
    const isAwaited = (item: PendingItem) => item.room !== entry.room || (item.seq ?? 0) > entry.seq;
    this.acknowledged.value = this.acknowledged.value.filter(isAwaited);
  }

  private updated(person: User): void {
    this.people.learn([person]);
    if (person.id === this.me.value.id) this.me.value = person;
    for (const room of this.rooms.value.values()) {
      if (room.peer?.id === person.id) this.rooms.value = withRoom(this.rooms.value, { ...room, peer: person });
    }
  }

  private scheduleMark(): void {
    if (!this.watched) return;
    this.markTimer ??= setTimeout(() => {
      this.markTimer = undefined;
      this.mark();
    }, MARK_AFTER_MS);
  }

  private mark(): void {
    const id = this.watched;
    const room = id ? this.rooms.value.get(id) : undefined;
    const log = id ? this.timelines.peek(id)?.log.value : undefined;
    if (!id || !room || !log?.items.length || id !== this.activeId.value || !isAttached(log)) return;
    if (log.to <= room.readSeq || !this.gateway.isOnline) return;
    this.rooms.value = withRead(this.rooms.value, id, log.to, 0);
    this.gateway.command("read.mark", { room: id, seq: log.to }, (outcome) => {
      if ("data" in outcome) {
        const { read_seq, unread } = outcome.data;
        this.rooms.value = withRead(this.rooms.value, id, read_seq, unread);
      }
    });
  }

  private beginCatchingUp(): void {
    this.endCatchingUp();
    if (this.timelines.isCaughtUp(this.expected)) return;
    this.catchingUpTimers = [
      setTimeout(() => {
        this.isCatchingUp.value = true;
      }, CATCHING_UP_AFTER_MS),
      setTimeout(() => this.endCatchingUp(), CATCHING_UP_AT_MOST_MS),
    ];
  }

  private checkCaughtUp(): void {
    if (this.catchingUpTimers.length && this.timelines.isCaughtUp(this.expected)) this.endCatchingUp();
  }

  private endCatchingUp(): void {
    for (const timer of this.catchingUpTimers) clearTimeout(timer);
    this.catchingUpTimers = [];
    this.isCatchingUp.value = false;
  }
}
