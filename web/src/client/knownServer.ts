/** Which keys this browser knows its server by. The first key is kept; later ones only by an explicit choice. */

import { checkKeyList, fetchKeyList, type SignedKeyList } from "./keyList";
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
  /** Id of the root that signs the list of the server's keys, and the list that was taken last; absent when it has none. */
  root?: string;
  list?: string;
}

const LOOPBACK = ["localhost", "127.0.0.1", "[::1]"];
const NOBODY: Known = { keys: [], since: 0, how: "first", wasSealed: false };

/** Return what a link's fragment carries: `#pin=…,t=…`. Commas, since `&` means something to a shell. */
export const readFragment = (fragment: string) => new URLSearchParams(fragment.replace(/^#/, "").replaceAll(",", "&"));

/** Return the key ids of an invitation's, setup or reset link's fragment: `pin=<64 hexadecimal digits>`. */
export function pinsOf(fragment: string): string[] {
  const found = readFragment(fragment)
    .getAll("pin")
    .map((pin) => pin.toLowerCase());
  return [...new Set(found.filter((pin) => /^[0-9a-f]{64}$/.test(pin)))].slice(0, 8);
}

export class KnownServer {
  private readonly key: string;

  /** @param host As dialled: `name[:port]`, lower case. */
  constructor(
    private readonly storage: Pick<Storage, "demand" | "put">,
    readonly host: string,
    private readonly now: () => number = Date.now,
    private readonly fetchList: () => Promise<SignedKeyList> = fetchKeyList,
  ) {
    this.key = `server-key:${host}`;
  }

  /** Return what is known; throws when this browser's storage cannot be read, since that is not the same as nothing. */
  async load(): Promise<Known> {
    return ((await this.storage.demand("settings", this.key)) as Known | undefined) ?? NOBODY;
  }

  /**
   * A server was set up anew just now. On this machine that is another server under the same name, as happens to those who try
   * things out; elsewhere what is known stays.
   */
  async setUp(): Promise<void> {
    const { hostname } = new URL(`http://${this.host}`);
    if (LOOPBACK.includes(hostname)) await this.keep(NOBODY);
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

  /**
   * At the first contact: keep the root that the server named inside the session. Whoever is believed with its key is believed
   * with its root; a key that was known before could be a stolen one, and must not name its successors.
   */
  async keepRoot(keyId: string, root: string): Promise<void> {
    const known = await this.load();
    const isFirst = known.how === "first" && known.keys.length === 1 && known.keys[0] === keyId && !known.root;
    if (isFirst && /^[0-9a-f]{64}$/.test(root)) await this.keep({ ...known, root });
  }

  /** Return whether the known root names this key as one of the server's; its list then takes the place of the known keys. */
  async isListed(keyId: string): Promise<boolean> {
    const known = await this.load();
    if (!known.root) return false;
    const signed = await this.fetchList();
    const want = { host: this.host, root: known.root, nowMs: this.now(), last: known.list ?? "" };
    const keys = await checkKeyList(signed, want);
    if (!keys.includes(keyId)) return false;
    await this.keep({ ...known, keys, list: signed.list });
    return true;
  }

  private async keep(known: Known): Promise<Known> {
    await this.storage.put("settings", this.key, known);
    return known;
  }
}
