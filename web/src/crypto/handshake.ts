/** The handshake messages, as bytes (spec/session-layer.md 3). What they mean is in `protocol/handshake`. */

import { isSuite, type Suite, shareBytes } from "./keyExchange";
import {
  type Bytes,
  bytes,
  concat,
  type Extensions,
  NO_COMMON,
  PROTOCOL,
  Reader,
  readExtensions,
  SessionRefused,
  u16,
  vec16,
  writeExtensions,
} from "./wire";

export const VERSION = 1;
export const Extension = { HOST: 0x0001, PROTOCOLS: 0x0002, PINS: 0x0003 } as const;
export const PINS_MAX = 8;
const SERVER_AUTH_MAX = 1_024;
const AGE_MS = { least: 60_000, most: 1_800_000 };
const RECORDS = { least: 2 ** 10, most: 2 ** 20 };

const Kind = { CLIENT_HELLO: 1, SERVER_HELLO: 2, SERVER_AUTH: 3, SERVER_FIN: 4, CLIENT_FIN: 5 } as const;

/** What a client offers: suites with their shares, in the order of preference; P-256 is among them. */
export interface ClientHello {
  random: Bytes;
  shares: ReadonlyMap<Suite, Bytes>;
  extensions: Extensions;
}

export function writeClientHello({ random, shares, extensions }: ClientHello): Bytes {
  const suites = concat(...[...shares.keys()].map(u16));
  const all = concat(...[...shares].map(([suite, share]) => concat(u16(suite), vec16(share))));
  const head = bytes(Kind.CLIENT_HELLO, VERSION);
  return concat(head, vec16(suites), random, vec16(all), writeExtensions(extensions));
}

/** What a server chose. */
export interface ServerHello {
  suite: Suite;
  random: Bytes;
  sessionId: Bytes;
  /** Its clock, in milliseconds since 1970. */
  timeMs: number;
  share: Bytes;
  /** Hard limits of an epoch: its age, and its records in each direction. */
  ageMs: number;
  records: number;
  /** Which identity signs. */
  keyId: Bytes;
  extensions: Extensions;
}

/** Read what answers an offer: 4406 for another version or a suite that was not offered, 4400 for anything else. */
export function readServerHello(data: Bytes, offer: ClientHello): ServerHello {
  const reader = new Reader(data);
  reader.expect(Kind.SERVER_HELLO);
  if (reader.number(1) !== VERSION) throw new SessionRefused(NO_COMMON, "version");
  const suite = reader.number(2);
  if (!isSuite(suite) || !offer.shares.has(suite)) throw new SessionRefused(NO_COMMON, "a suite that was not offered");
  const found: ServerHello = {
    suite,
    random: reader.take(32),
    sessionId: reader.take(16),
    timeMs: reader.number(8),
    share: reader.vec16(),
    ageMs: reader.number(4),
    records: reader.number(4),
    keyId: reader.take(32),
    extensions: readExtensions(reader.vec16()),
  };
  reader.end();
  if (found.share.length !== shareBytes(suite)) throw new SessionRefused(PROTOCOL, "share");
  const { ageMs, records } = found;
  if (ageMs < AGE_MS.least || ageMs > AGE_MS.most || records < RECORDS.least || records > RECORDS.most) {
    throw new SessionRefused(PROTOCOL, "limits of an epoch");
  }
  for (const kind of found.extensions.keys()) {
    if (!offer.extensions.has(kind)) throw new SessionRefused(PROTOCOL, "an extension that was not offered");
  }
  return found;
}

/** Who the server is: its public key, and its signature of both hellos. */
export function readServerAuth(data: Bytes): { spki: Bytes; signature: Bytes } {
  if (data.length > SERVER_AUTH_MAX) throw new SessionRefused(PROTOCOL, "ServerAuth too long");
  const reader = new Reader(data);
  reader.expect(Kind.SERVER_AUTH);
  const found = { spki: reader.vec16(), signature: reader.vec16() };
  reader.end();
  return found;
}

/** Return the tag of a ServerFin. */
export function readServerFin(data: Bytes): Bytes {
  const reader = new Reader(data);
  reader.expect(Kind.SERVER_FIN);
  const tag = reader.take(32);
  reader.end();
  return tag;
}

export const writeClientFin = (tag: Bytes): Bytes => concat(bytes(Kind.CLIENT_FIN), tag);
