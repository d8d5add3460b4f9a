/** Which keys this browser knows its server by. The first key is kept; later ones only by an explicit choice. */

import type { Storage } from "./storage";

export type Learned = "first" | "link" | "accepted";

export interface Known {
  /** Ids of identity keys in hexadecimal digits; none only for a server that was never met sealed. */
  keys: readonly string[];
  /** When the first of these keys was taken, in milliseconds since 1970. */
  since: number;
  how: Learned;
  /** Whether a sealed session was held with this server: never again without. */
  wasSealed: boolean;
}

const NOBODY: Known = { keys: [], since: 0, how: "first", wasSealed: false };

/** Return the key ids of an invitation's or setup link's fragment: `…&pin=<64 hexadecimal digits>`. */
export function pinsOf(fragment: string): string[] {
  const found = new URLSearchParams(fragment.replace(/^#/, "")).getAll("pin").map((pin) => pin.toLowerCase());
  return [...new Set(found.filter((pin) => /^[0-9a-f]{64}$/.test(pin)))].slice(0, 8);
}

export class KnownServer {
  private readonly key: string;

  /** @param host As dialled: `name[:port]`, lower case. */
  constructor(
    private readonly storage: Pick<Storage, "demand" | "put">,
    readonly host: string,
    private readonly now: () => number = Date.now,
  ) {
    this.key = `server-key:${host}`;
  }

  /** Return what is known; throws when this browser's storage cannot be read, since that is not the same as nothing. */
  async load(): Promise<Known> {
    return ((await this.storage.demand("settings", this.key)) as Known | undefined) ?? NOBODY;
  }

  /** Take the keys that a link names. It never replaces keys that are known: anybody can send a link. */
  async suggest(keys: readonly string[]): Promise<void> {
    if (!keys.length || (await this.load()).keys.length) return;
    await this.keep({ keys, since: this.now(), how: "link", wasSealed: false });
  }

  /** Remember that this key's server was met sealed. */
  async meet(keyId: string): Promise<Known> {
    const known = await this.load();
    if (known.wasSealed) return known;
    const keys = known.keys.length ? known.keys : [keyId];
    return this.keep({ ...known, keys, since: known.since || this.now(), wasSealed: true });
  }

  /** Trust another key instead of the known ones: somebody compared it. */
  async accept(keyId: string): Promise<void> {
    await this.keep({ keys: [keyId], since: this.now(), how: "accepted", wasSealed: true });
  }

  private async keep(known: Known): Promise<Known> {
    await this.storage.put("settings", this.key, known);
    return known;
  }
}
