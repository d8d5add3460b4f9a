/**
 * The records of one direction of one epoch (spec/session-layer.md 5).
 *
 * A record is sealed with AES-256-GCM and, over header and ciphertext, with HMAC-SHA256 under a key of its own: encrypt, then
 * MAC. Counter and key live in one object, so that no nonce is used twice whatever happens around it.
 */

import { type DirectionKeys, holds, tagOf } from "./keySchedule";
import { type Bytes, bytes, concat, PROTOCOL, SessionRefused, utf8 } from "./wire";

export const HEADER_BYTES = 28;
export const MAC_BYTES = 32;
export const TAG_BYTES = 16;
export const RECORDS_MAX = 2 ** 20;
export const BYTES_MAX = 2 ** 34;
/** The last sequence numbers are for rekey and close. */
export const RESERVED = 16;

const RECORD = 0x10;
const VERSION = 1;

export const Direction = { CLIENT: 1, SERVER: 2 } as const;
export type Direction = (typeof Direction)[keyof typeof Direction];

export const Content = { APPLICATION: 1, CONTROL: 2, CLOSE: 3 } as const;
export type Content = (typeof Content)[keyof typeof Content];

/** Return the size of an inner plaintext after padding: 64, 128, … 1,024, then multiples of 1,024. */
export function padded(size: number): number {
  if (size > 1_024) return Math.ceil(size / 1_024) * 1_024;
  let full = 64;
  while (full < size) full *= 2;
  return full;
}

/** No record may be sealed under these keys any more. */
export class Exhausted extends Error {}

/** What is inside a record. */
export interface Opened {
  kind: number;
  content: Bytes;
  timestampMs: number;
}

const bindOf = (direction: Direction, sessionId: Bytes): Bytes => concat(utf8("SCSL1"), bytes(direction), sessionId);

function nonceOf(iv: Bytes, seq: number): Bytes {
  const nonce = iv.slice();
  const view = new DataView(nonce.buffer);
  view.setUint32(8, view.getUint32(8) ^ seq); // A sequence number ends at 2^20.
  return nonce;
}

export class RecordSealer {
  seq = 0;
  sealedBytes = 0;
  private readonly bind: Bytes;

  /** @param recordsMax Sequence numbers end here. */
  constructor(
    direction: Direction,
    sessionId: Bytes,
    readonly epoch: number,
    private readonly keys: DirectionKeys,
    private readonly recordsMax = RECORDS_MAX,
  ) {
    this.bind = bindOf(direction, sessionId);
  }

  /**
   * Return the next record. The sequence number is taken before anything is awaited.
   *
   * @throws Exhausted The limit of these keys is reached.
   */
  async seal(kind: Content, content: Bytes, timestampMs: number): Promise<Bytes> {
    const { seq, keys } = this;
    const last = kind === Content.APPLICATION ? this.recordsMax - RESERVED : this.recordsMax;
    const full = padded(content.length + 1);
    if (seq >= last || this.sealedBytes + full > BYTES_MAX) throw new Exhausted();
    this.seq = seq + 1;
    this.sealedBytes += full;
    const header = new Uint8Array(HEADER_BYTES);
    const view = new DataView(header.buffer);
    header[0] = RECORD;
    header[1] = VERSION;
    view.setUint32(4, this.epoch);
    view.setBigUint64(8, BigInt(seq));
    view.setBigUint64(16, BigInt(Math.trunc(timestampMs)));
    view.setUint32(24, full + TAG_BYTES);
    const inner = new Uint8Array(full);
    inner.set(content);
    inner[content.length] = kind;
    const bound = concat(this.bind, header);
    const algorithm = { name: "AES-GCM", iv: nonceOf(keys.iv, seq), additionalData: bound };
    const ciphertext = new Uint8Array(await crypto.subtle.encrypt(algorithm, keys.key, inner));
    const tag = await tagOf(keys.mac, concat(bound, ciphertext));
    return concat(header, ciphertext, tag);
  }
}

export class RecordOpener {
  private seq = 0;
  private openedBytes = 0;
  private readonly bind: Bytes;

  constructor(
    direction: Direction,
    sessionId: Bytes,
    readonly epoch: number,
    private readonly keys: DirectionKeys,
    private readonly recordsMax = RECORDS_MAX,
  ) {
    this.bind = bindOf(direction, sessionId);
  }

  /**
   * Check lengths, fixed fields and the HMAC of a record.
   *
   * @throws SessionRefused It is not one that the peer sealed with these keys.
   */
  async authentic(record: Bytes, sizeMax: number): Promise<{ epoch: number; seq: number; timestampMs: number }> {
    const { length } = record;
    const least = HEADER_BYTES + TAG_BYTES + 1 + MAC_BYTES;
    if (length < least || length > sizeMax + HEADER_BYTES + TAG_BYTES + MAC_BYTES) {
      throw new SessionRefused(PROTOCOL, "record size");
    }
    const view = new DataView(record.buffer, record.byteOffset, HEADER_BYTES);
    const isHeader = record[0] === RECORD && record[1] === VERSION && view.getUint16(2) === 0;
    if (!isHeader || view.getUint32(24) !== length - HEADER_BYTES - MAC_BYTES) {
      throw new SessionRefused(PROTOCOL, "record header");
    }
    const signed = concat(this.bind, record.subarray(0, length - MAC_BYTES));
    if (!(await holds(this.keys.mac, record.slice(length - MAC_BYTES), signed))) {
      throw new SessionRefused(PROTOCOL, "record mac");
    }
    return {
      epoch: view.getUint32(4),
      seq: Number(view.getBigUint64(8)),
      timestampMs: Number(view.getBigUint64(16)),
    };
  }

  /**
   * Open the record with the next sequence number, after `authentic` and `ReplayDetector.admit`.
   *
   * @throws SessionRefused The cipher's own tag does not fit, or nothing is inside.
   */
  async decrypt(record: Bytes, timestampMs: number): Promise<Opened> {
    const { seq, keys } = this;
    const ciphertext = record.subarray(HEADER_BYTES, record.length - MAC_BYTES);
    this.openedBytes += ciphertext.length - TAG_BYTES;
    if (seq >= this.recordsMax || this.openedBytes > BYTES_MAX) throw new SessionRefused(PROTOCOL, "keys used up");
    this.seq = seq + 1;
    const bound = concat(this.bind, record.subarray(0, HEADER_BYTES));
    const algorithm = { name: "AES-GCM", iv: nonceOf(keys.iv, seq), additionalData: bound };
    let inner: Bytes;
    try {
      inner = new Uint8Array(await crypto.subtle.decrypt(algorithm, keys.key, ciphertext));
    } catch {
      throw new SessionRefused(PROTOCOL, "record tag");
    }
    let end = inner.length;
    while (end > 0 && inner[end - 1] === 0) end -= 1;
    const kind = inner[end - 1];
    if (kind === undefined) throw new SessionRefused(PROTOCOL, "record without content type");
    return { kind, content: inner.subarray(0, end - 1), timestampMs };
  }
}
