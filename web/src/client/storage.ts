/** What survives a reload: the outbox, drafts and settings of this browser, in IndexedDB. */

import { type DBSchema, type IDBPDatabase, openDB } from "idb";

export interface Draft {
  text: string;
  replyTo?: number;
}

/** What somebody does with a message that the server has. */
export interface Change {
  op: "message.edit" | "message.delete" | "reaction.add" | "reaction.remove";
  /** The message. */
  seq: number;
  emoji?: string;
}

/** What is on its way: a message, or a change of one. */
export interface OutboxItem {
  cmid: string;
  user: string;
  room: string;
  /** The words of a message or an edit. */
  body: string;
  replyTo?: number;
  change?: Change;
  /** When it was written: its place among its room's. */
  at: number;
  /** The tab that sends it. */
  tab: string;
  /** Why the server will never take it. */
  refused?: string;
}

interface Schema extends DBSchema {
  drafts: { key: string; value: Draft };
  outbox: { key: string; value: OutboxItem };
  settings: { key: string; value: unknown };
}

type StoreName = "drafts" | "outbox" | "settings";

/** Storage with one shape for IndexedDB and, where that is switched off or broken, for memory. */
export class Storage {
  private readonly memory: Record<StoreName, Map<string, unknown>> = {
    drafts: new Map(),
    outbox: new Map(),
    settings: new Map(),
  };

  private constructor(
    private readonly db: IDBPDatabase<Schema> | null,
    /** Why there is no database although this browser has some: what was kept in it cannot be read. */
    private readonly failure?: unknown,
  ) {}

  static async open(name = "securechat"): Promise<Storage> {
    if (globalThis.indexedDB === undefined) return new Storage(null);
    try {
      const db = await openDB<Schema>(name, 1, {
        upgrade(fresh) {
          fresh.createObjectStore("drafts");
          fresh.createObjectStore("outbox");
          fresh.createObjectStore("settings");
        },
        blocking(_from, _to, event) {
          (event.target as IDBDatabase).close();
        },
      });
      return new Storage(db);
    } catch (error) {
      return new Storage(null, error);
    }
  }

  async get<S extends StoreName>(store: S, key: string): Promise<Schema[S]["value"] | undefined> {
    if (!this.db) return this.memory[store].get(key) as Schema[S]["value"] | undefined;
    return this.db.get(store, key).catch(() => undefined);
  }

  /** Like `get`, for what must not be taken for missing when it cannot be read: throws then. */
  async demand<S extends StoreName>(store: S, key: string): Promise<Schema[S]["value"] | undefined> {
    const kept = this.memory[store].get(key) as Schema[S]["value"] | undefined;
    if (kept === undefined && this.failure !== undefined) throw this.failure;
    return kept ?? (await this.db?.get(store, key));
  }

  async put<S extends StoreName>(store: S, key: string, value: Schema[S]["value"]): Promise<void> {
    this.memory[store].set(key, value);
    await this.db?.put(store, value as never, key).catch(() => undefined);
  }

  async delete(store: StoreName, key: string): Promise<void> {
    this.memory[store].delete(key);
    await this.db?.delete(store, key).catch(() => undefined);
  }

  async all<S extends StoreName>(store: S): Promise<Schema[S]["value"][]> {
    if (!this.db) return [...this.memory[store].values()] as Schema[S]["value"][];
    return this.db.getAll(store).catch(() => []);
  }

  async keys(store: StoreName): Promise<string[]> {
    if (!this.db) return [...this.memory[store].keys()];
    return this.db.getAllKeys(store).catch(() => []);
  }
}
