/** What a screen reader is told about new messages: each one, or only how many when they come fast. */

import { type Signal, signal } from "@preact/signals";

const WINDOW_MS = 2_000;
const SINGLY = 3;
const KEPT = 20;

export interface Announcement {
  id: number;
  text: string;
  /** What somebody wrote, as they wrote it: to be read out as words. */
  body?: string;
  /** The message, for the day when it is deleted. */
  key?: string;
}

export class Announcer {
  readonly spoken: Signal<readonly Announcement[]> = signal([]);
  private lastId = 0;
  private recent: number[] = [];
  private held = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly now: () => number = Date.now) {}

  /** Announce a message, or count it towards "5 new messages in …". */
  message(who: string, body: string, where: string, key = ""): void {
    const now = this.now();
    this.recent = this.recent.filter((at) => now - at < WINDOW_MS);
    if (this.recent.length < SINGLY && !this.timer) {
      this.recent.push(now);
      this.say(`${who}: `, body, key);
      return;
    }
    this.held += 1;
    this.timer ??= setTimeout(() => {
      this.say(`${this.held} new ${this.held === 1 ? "message" : "messages"} in ${where}`);
      this.held = 0;
      this.timer = undefined;
    }, WINDOW_MS);
  }

  /** What was deleted is not to be read here either. */
  forget(key: string): void {
    if (this.spoken.value.some((one) => one.key === key)) {
      this.spoken.value = this.spoken.value.filter((one) => one.key !== key);
    }
  }

  say(text: string, body?: string, key?: string): void {
    this.lastId += 1;
    this.spoken.value = [
      ...this.spoken.value.slice(-KEPT + 1),
      { id: this.lastId, text, ...(body !== undefined && { body }), ...(key && { key }) },
    ];
  }
}
