/** What one was writing in each room, kept over a reload. */

import { type Signal, signal } from "@preact/signals";
import type { Draft, OutboxItem, Storage } from "../client/storage";

const SAVE_AFTER_MS = 250;

export interface Writing extends Draft {
  /** `seq` of the own message that is being edited. Not kept: what is edited may have changed by then. */
  editing?: number;
  /** The text from before the edit began. */
  before?: Draft;
}

const NOTHING: Writing = { text: "" };

export class Drafts {
  private readonly rooms = new Map<string, Signal<Writing>>();
  private readonly timers = new Map<string, ReturnType<typeof setTimeout>>();

  constructor(
    private readonly user: string,
    private readonly storage: Storage,
  ) {}

  async load(): Promise<void> {
    const prefix = `${this.user}/`;
    for (const key of await this.storage.keys("drafts")) {
      if (!key.startsWith(prefix)) continue;
      const draft = await this.storage.get("drafts", key);
      const writing = this.of(key.slice(prefix.length));
      if (draft && !writing.value.text) writing.value = draft;
    }
  }

  of(room: string): Signal<Writing> {
    let writing = this.rooms.get(room);
    if (!writing) {
      writing = signal(NOTHING);
      this.rooms.set(room, writing);
    }
    return writing;
  }

  write(room: string, text: string): void {
    this.set(room, { ...this.of(room).value, text });
  }

  reply(room: string, replyTo: number | undefined): void {
    const { text } = this.cancelled(room);
    this.set(room, replyTo === undefined ? { text } : { text, replyTo });
  }

  edit(room: string, seq: number, text: string): void {
    this.set(room, { text, editing: seq, before: this.cancelled(room) });
  }

  /** Write once more what was not sent. What was begun meanwhile stays: behind it, or until an edit ends. */
  takeBack({ room, body, replyTo, change }: OutboxItem): void {
    if (change) {
      this.edit(room, change.seq, body);
      return;
    }
    const begun = this.cancelled(room);
    const text = [body, begun.text].filter(Boolean).join("\n");
    const to = begun.replyTo ?? replyTo;
    this.set(room, to === undefined ? { text } : { text, replyTo: to });
  }

  /** End an edit or a reply; what was written before an edit comes back. */
  cancel(room: string): void {
    const now = this.of(room).value;
    this.set(room, now.editing === undefined ? { text: now.text } : this.cancelled(room));
  }

  /** The text was sent. */
  clear(room: string): void {
    this.set(room, this.of(room).value.before ?? NOTHING);
  }

  /** Write to disk at once what still waits: the page is going away. */
  flush(): void {
    for (const room of [...this.timers.keys()]) this.save(room);
  }

  private cancelled(room: string): Draft {
    const { text, replyTo, editing, before } = this.of(room).value;
    if (editing !== undefined) return before ?? NOTHING;
    return replyTo === undefined ? { text } : { text, replyTo };
  }

  private set(room: string, writing: Writing): void {
    this.of(room).value = writing;
    clearTimeout(this.timers.get(room));
    this.timers.set(
      room,
      setTimeout(() => this.save(room), SAVE_AFTER_MS),
    );
  }

  private save(room: string): void {
    clearTimeout(this.timers.get(room));
    this.timers.delete(room);
    const draft = this.cancelled(room);
    const key = `${this.user}/${room}`;
    if (draft.text || draft.replyTo !== undefined) void this.storage.put("drafts", key, { ...draft });
    else void this.storage.delete("drafts", key);
  }
}
