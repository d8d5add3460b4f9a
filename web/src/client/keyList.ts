/** The list of a server's identity keys, signed by its offline root (spec/session-layer.md 2). */

import { sha256 } from "../crypto/hash";
import { KEY_LIST, keyIdOf, verify } from "../crypto/identity";
import { type Bytes, hex } from "../crypto/wire";

const PATH = "/.well-known/securechat-identity";
const CHARS_MAX = 65_536;
const FETCH_MS = 10_000;
const LIST_S = 45 * 86_400;
/** How wrong this computer's clock may be about the beginning of a list. */
const CLOCKS_S = 86_400;

/** As published; byte strings in base64url without padding. */
export interface SignedKeyList {
  list: string;
  root_kid: string;
  root_spki: string;
  sig: string;
}

interface KeyList {
  host: string;
  serial: number;
  /** Seconds since 1970. */
  issued: number;
  expires: number;
  keys: { kid: string }[];
}

/** Return the list that the server publishes; throws when it has none. */
export async function fetchKeyList(): Promise<SignedKeyList> {
  const signal = AbortSignal.timeout(FETCH_MS);
  const answer = await fetch(PATH, { cache: "no-store", credentials: "omit", redirect: "error", signal });
  const text = answer.ok ? await answer.text() : "";
  if (!text || text.length > CHARS_MAX) throw new Error("no key list");
  return JSON.parse(text) as SignedKeyList;
}

function fromBase64(text: string): Bytes {
  if (!/^[\w-]+$/.test(text)) throw new Error("not base64url");
  return Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0));
}

function parse(content: Bytes): KeyList {
  const found = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(content)) as KeyList;
  const { host, serial, issued, expires, keys } = found;
  const isShape = typeof host === "string" && [serial, issued, expires].every(Number.isSafeInteger);
  if (!isShape || !Array.isArray(keys) || !keys.length || !keys.every(({ kid }) => /^[0-9a-f]{64}$/.test(kid))) {
    throw new Error("not a key list");
  }
  return found;
}

/**
 * Return the ids of the listed keys, if this root signed the list for this host and it holds now.
 *
 * @param last The `list` that was taken last: an older one is not taken.
 * @throws Error It is not to be taken.
 */
export async function checkKeyList(
  signed: SignedKeyList,
  want: { host: string; root: string; nowMs: number; last: string },
): Promise<string[]> {
  const [spki, content, signature] = [signed.root_spki, signed.list, signed.sig].map(fromBase64) as [
    Bytes,
    Bytes,
    Bytes,
  ];
  if (hex(await keyIdOf(spki)) !== want.root) throw new Error("signed by another root");
  if (!(await verify(spki, KEY_LIST, await sha256(content), signature))) throw new Error("the signature is wrong");
  const found = parse(content);
  const last = want.last && want.last !== signed.list ? parse(fromBase64(want.last)).serial : -1;
  if (found.host !== want.host) throw new Error("for another host");
  if (found.serial <= last) throw new Error("not newer than the one known");
  const now = want.nowMs / 1_000;
  const isNow = found.issued - CLOCKS_S <= now && now < found.expires;
  if (!isNow || found.expires > found.issued + LIST_S) throw new Error("not valid at this time");
  return found.keys.map(({ kid }) => kid);
}
