/** The logs of the rooms that one has looked at: pages, jumps, gaps. */

import { type Signal, signal } from "@preact/signals";
import type { Connection } from "../client/connection";
import type { Entry, Page, RoomSummary } from "../protocol/messages";
import * as fold from "./log";

const PAGE = 60;
/** Items held of one room; the far end is dropped and read again when somebody scrolls there. */
const ITEMS = 2_000;
/** Rooms whose log is held; the one that was not looked at for the longest time goes first. */
const LOGS = 30;
const RESUME_AGAIN_MS = 5_000;

export type Busy = "page" | "older" | "newer" | null;

export class Timeline {
  readonly log: Signal<fold.Log | null> = signal(null);
  readonly busy: Signal<Busy> = signal(null);
  readonly failed: Signal<Busy> = signal(null);
  /** Where the "New" line stands: after this `seq`. */
  readonly newAfter: Signal<number | null> = signal(null);
  /** A message to bring into view. */
  readonly target: Signal<{ seq: number } | null> = signal(null);
  /** The server sends the newest page instead of everything: the next event begins anew. */
  restarting = false;

  constructor(readonly room: string) {}

  get isComplete(): boolean {
    return (this.log.value?.from ?? 0) <= 1;
  }
}

type Gateway = Pick<Connection, "call" | "command" | "isOnline">;

export class Timelines {
  private readonly timelines = new Map<string, Timeline>();

  constructor(
    private readonly gateway: Gateway,
    /** The newest `seq` known of a room. */
    private readonly newest: (room: string) => number,
  ) {}

  /** Return the room's timeline, made at the first call. */
  of(room: string): Timeline {
    const known = this.timelines.get(room);
    const timeline = known ?? new Timeline(room);
    this.timelines.delete(room);
    this.timelines.set(room, timeline);
    if (!known && this.timelines.size > LOGS) {
      const [oldest] = this.timelines.keys();
      if (oldest) this.timelines.delete(oldest);
    }
    return timeline;
  }

  peek(room: string): Timeline | undefined {
    return this.timelines.get(room);
  }

  forget(room: string): void {
    const timeline = this.timelines.get(room);
    if (timeline) timeline.log.value = null;
    this.timelines.delete(room);
  }

  /** What `auth` tells the server: the newest `seq` of each log that is held. */
  held(): Record<string, number> {
    const held: Record<string, number> = {};
    for (const [room, { log }] of this.timelines) {
      if (log.value) held[room] = log.value.live;
    }
    return held;
  }

  /** A new connection: forget what the server did not take up again. */
  ready(rooms: readonly RoomSummary[], isComplete: boolean): void {
    const summaries = new Map(rooms.map((room) => [room.id, room]));
    for (const [id, timeline] of [...this.timelines]) {
      const summary = summaries.get(id);
      if (!summary) {
        if (isComplete) this.forget(id);
      } else if (timeline.log.value) this.resumed(timeline, summary.resumed !== false);
      timeline.busy.value = null;
    }
  }

  /** Return whether every log reaches at least to where its room was when the connection began. */
  isCaughtUp(lastSeqs: ReadonlyMap<string, number>): boolean {
    for (const [room, { log, restarting }] of this.timelines) {
      if (restarting || (log.value && log.value.live < (lastSeqs.get(room) ?? 0))) return false;
    }
    return true;
  }

  /** Take an event in. */
  receive(entry: Entry): fold.Outcome {
    const timeline = this.timelines.get(entry.room);
    if (!timeline?.log.value) return entry.seq > this.newest(entry.room) ? "applied" : "repeated";
    if (timeline.restarting && entry.seq > timeline.log.value.live) {
      timeline.restarting = false;
      timeline.log.value = fold.restart(entry);
    }
    const before = timeline.log.value;
    const [after, outcome] = fold.receive(before, entry);
    if (after !== before) timeline.log.value = fold.trim(after, ITEMS, "old");
    if (outcome === "gap" && !before.gap) this.resume(timeline);
    return outcome;
  }

  /** Show the newest page, unless the newest messages are there already. */
  async open(room: string): Promise<void> {
    const timeline = this.of(room);
    const log = timeline.log.value;
    if (log && fold.isAttached(log) && (log.items.length || log.from <= 1)) return;
    await this.load(timeline, "page", {}, fold.replaceWith);
  }

  async older(room: string): Promise<void> {
    const timeline = this.of(room);
    const log = timeline.log.value;
    if (!log || log.from <= 1) return;
    await this.load(timeline, "older", { before: log.from }, (now, page) =>
      fold.trim(fold.prepend(now, page), ITEMS, "new"),
    );
  }

  async newer(room: string): Promise<void> {
    const timeline = this.of(room);
    const log = timeline.log.value;
    if (!log || fold.isAttached(log)) return;
    await this.load(timeline, "newer", { after: log.to }, (now, page) =>
      fold.trim(fold.append(now, page), ITEMS, "old"),
    );
  }

  /** Bring a message into view, wherever it is. */
  async jump(room: string, seq: number): Promise<void> {
    const timeline = this.of(room);
    const log = timeline.log.value;
    if (!log || seq < log.from || seq > log.to) {
      await this.load(timeline, "page", { around: seq }, fold.replaceWith);
    }
    timeline.target.value = { seq };
  }

  private async load(
    timeline: Timeline,
    busy: Busy,
    where: { before?: number; after?: number; around?: number },
    take: (log: fold.Log, page: Page) => fold.Log,
  ): Promise<void> {
    if (timeline.busy.value === busy) return;
    timeline.busy.value = busy;
    timeline.failed.value = null;
    timeline.log.value ??= fold.emptyLog(this.newest(timeline.room));
    try {
      const page = await this.gateway.call("fetch", { room: timeline.room, limit: PAGE, ...where });
      const log = timeline.log.value;
      // Another page may have come in between; one that no longer fits is left out by the fold.
      if (log) timeline.log.value = take(log, page);
    } catch {
      timeline.failed.value = busy;
    } finally {
      if (timeline.busy.value === busy) timeline.busy.value = null;
    }
  }

  private resume(timeline: Timeline): void {
    const log = timeline.log.value;
    if (!log) return;
    const { room } = timeline;
    this.gateway.command("resume", { rooms: { [room]: log.live } }, (outcome) => {
      if ("data" in outcome) this.resumed(timeline, outcome.data.rooms[room] !== false);
    });
    setTimeout(() => {
      const now = timeline.log.value;
      if (now?.gap && this.gateway.isOnline) this.resume(timeline);
    }, RESUME_AGAIN_MS);
  }

  private resumed(timeline: Timeline, everything: boolean): void {
    const log = timeline.log.value;
    if (!log) return;
    timeline.restarting = !everything;
    if (log.gap) timeline.log.value = { ...log, gap: false };
  }
}
