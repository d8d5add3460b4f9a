/**
 * Messages and changes on their way: kept on disk, sent one after the other in each room, until the server has or refuses them.
 *
 * Each tab sends what was written in it, and takes over what a closed tab left. Should two tabs ever send the same message, the
 * server knows it by its `cmid`: all tabs are one device.
 */

import type { Problem, Sent } from "../protocol/messages";
import { backoffMs } from "./backoff";
import { randomId } from "./ids";
import { heldLocks, hold } from "./locks";
import { isDefinite, Refused } from "./problem";
import type { OutboxItem, Storage } from "./storage";

const TAB_LOCK = "securechat-tab-";
/** A refusal that is the server's own mistake is tried this often before the message stops the ones behind it no longer. */
const SERVER_ERRORS = 4;

export interface OutboxPorts {
  send(item: OutboxItem): Promise<Sent>;
  isOnline(): boolean;
  /** The items of this tab changed. */
  changed(items: readonly OutboxItem[]): void;
  /** The server has it, under this `seq`. */
  sent(item: OutboxItem, sent: Sent): void;
  /** The server will never take it. */
  refused(item: OutboxItem, why: string): void;
  random(): number;
  now(): number;
}

export class Outbox {
  private items: OutboxItem[] = [];
  private readonly busy = new Set<string>();
  private readonly tab = randomId();
  private release = () => {};

  constructor(
    private readonly user: string,
    private readonly storage: Storage,
    private readonly ports: OutboxPorts,
  ) {}

  /** Take over what earlier tabs left. */
  async load(): Promise<void> {
    this.release = hold(TAB_LOCK + this.tab);
    await this.adopt();
  }

  /** Leave what is left to others: another tab, or the next one who signs in here. */
  stop(): void {
    this.release();
  }

  /** Take over the items of tabs that are gone, and send everything in the order in which it was written. */
  async adopt(): Promise<void> {
    const held = await heldLocks();
    const stored = await this.storage.all("outbox");
    const known = new Set(this.items.map((item) => item.cmid));
    const mine = stored
      .filter((item) => item.user === this.user && !known.has(item.cmid) && !held?.names.has(TAB_LOCK + item.tab))
      .map((item) => ({ ...item, tab: this.tab }));
    if (mine.length) this.set([...this.items, ...mine].sort((a, b) => a.at - b.at));
    await Promise.all(mine.map((item) => this.storage.put("outbox", item.cmid, item)));
    this.kick();
  }

  /** Put something on its way; it is in the list at once and on disk before it is sent. */
  add(what: Pick<OutboxItem, "room" | "body" | "replyTo" | "change">): void {
    const last = this.items.at(-1)?.at ?? 0;
    const at = Math.max(this.ports.now(), last + 1);
    const item: OutboxItem = { ...what, cmid: randomId(), user: this.user, at, tab: this.tab };
    this.set([...this.items, item]);
    void this.storage.put("outbox", item.cmid, item).then(() => this.kick());
  }

  /** Send what was refused once more, at the end. */
  retry(cmid: string): void {
    const item = this.items.find((one) => one.cmid === cmid);
    if (!item?.refused) return;
    this.remove(cmid);
    const { room, body, replyTo, change } = item;
    this.add({ room, body, replyTo, change });
  }

  /** Take an item out. Has no effect on one that is on the wire and arrives. */
  remove(cmid: string): OutboxItem | undefined {
    const item = this.items.find((one) => one.cmid === cmid);
    this.set(this.items.filter((one) => one.cmid !== cmid));
    void this.storage.delete("outbox", cmid);
    return item;
  }

  /** Send what can be sent now. */
  kick(): void {
    if (!this.ports.isOnline()) return;
    for (const room of new Set(this.items.map((item) => item.room))) {
      if (!this.busy.has(room)) void this.drain(room);
    }
  }

  private async drain(room: string): Promise<void> {
    this.busy.add(room);
    let failures = 0;
    try {
      for (;;) {
        const item = this.items.find((one) => one.room === room && !one.refused);
        if (!item || !this.ports.isOnline()) return;
        try {
          const sent = await this.ports.send(item);
          failures = 0;
          this.ports.sent(item, sent);
          this.remove(item.cmid);
        } catch (error) {
          if (!(error instanceof Refused)) return;
          failures += 1;
          await this.refused(item, error.problem, failures);
        }
      }
    } finally {
      this.busy.delete(room);
    }
  }

  private async refused(item: OutboxItem, problem: Problem, failures: number): Promise<void> {
    const hopeless = isDefinite(problem) || (!problem.retryable && failures >= SERVER_ERRORS);
    if (!hopeless) {
      const ms = problem.retry_after_ms ?? backoffMs(failures, this.ports.random);
      await new Promise((done) => setTimeout(done, ms));
      return;
    }
    const why = problem.detail || problem.title;
    this.ports.refused(item, why);
    // Words are kept for whoever wrote them; a deletion or a reaction that cannot be has none.
    if (item.change && !item.body) {
      this.remove(item.cmid);
      return;
    }
    const marked = { ...item, refused: why };
    this.set(this.items.map((one) => (one.cmid === item.cmid ? marked : one)));
    await this.storage.put("outbox", item.cmid, marked);
  }

  private set(items: OutboxItem[]): void {
    this.items = items;
    this.ports.changed(items);
  }
}
