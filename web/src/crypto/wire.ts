/** The byte encoding of the session layer (spec/session-layer.md 3): big-endian, length-prefixed, nothing left over. */

export type Bytes = Uint8Array<ArrayBuffer>;

/** Close code for whatever is malformed, forged or replayed: one code outside. */
export const PROTOCOL = 4400;
/** These keys are used up, or the record is stale: a new handshake helps. */
export const REKEY_REQUIRED = 4403;
/** No version, suite, sub-protocol or encoding in common. */
export const NO_COMMON = 4406;

/** The peer, or somebody in between, did what the session layer forbids. */
export class SessionRefused extends Error {
  constructor(
    readonly code: number,
    why: string,
  ) {
    super(why);
  }
}

export function concat(...parts: Uint8Array[]): Bytes {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

export const bytes = (...values: number[]): Bytes => Uint8Array.from(values);

export function utf8(text: string): Bytes {
  return new TextEncoder().encode(text) as Bytes;
}

export function hex(data: Uint8Array): string {
  return Array.from(data, (value) => value.toString(16).padStart(2, "0")).join("");
}

/** Read hexadecimal digits, two for each byte; the caller knows that they are. */
export function unhex(text: string): Bytes {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

export function equal(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && one.every((value, at) => value === other[at]);
}

export const u16 = (value: number): Bytes => bytes(value >>> 8, value & 0xff);

export function u32(value: number): Bytes {
  return bytes(value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff);
}

export const vec8 = (data: Uint8Array): Bytes => concat(bytes(data.length), data);
export const vec16 = (data: Uint8Array): Bytes => concat(u16(data.length), data);
/** F(m), as it goes into a transcript. */
export const framed = (message: Uint8Array): Bytes => concat(u32(message.length), message);
/** A list of ASCII names. */
export const names = (words: readonly string[]): Bytes => vec16(concat(...words.map((word) => vec8(utf8(word)))));

/** Reads a message from its beginning to its end; every method throws `SessionRefused` with 4400 where it cannot. */
export class Reader {
  private at = 0;

  constructor(private readonly data: Uint8Array) {}

  take(size: number): Bytes {
    const end = this.at + size;
    if (end > this.data.length) throw new SessionRefused(PROTOCOL, "truncated");
    const found = this.data.slice(this.at, end) as Bytes;
    this.at = end;
    return found;
  }

  /** Return a number of at most eight bytes; above 2^53 it is rounded. */
  number(size: number): number {
    return this.take(size).reduce((value, byte) => value * 256 + byte, 0);
  }

  vec8(): Bytes {
    return this.take(this.number(1));
  }

  vec16(): Bytes {
    return this.take(this.number(2));
  }

  expect(value: number): void {
    if (this.number(1) !== value) throw new SessionRefused(PROTOCOL, "unexpected byte");
  }

  get more(): boolean {
    return this.at < this.data.length;
  }

  end(): void {
    if (this.more) throw new SessionRefused(PROTOCOL, "trailing bytes");
  }
}

/** Read what `names` wrote, without its outer length. */
export function readNames(data: Uint8Array): string[] {
  const reader = new Reader(data);
  const found: string[] = [];
  while (reader.more) {
    const word = reader.vec8();
    if (!word.length || word.some((value) => value > 0x7f)) throw new SessionRefused(PROTOCOL, "a name");
    found.push(String.fromCharCode(...word));
  }
  if (!found.length || new Set(found).size !== found.length) throw new SessionRefused(PROTOCOL, "names");
  return found;
}

export type Extensions = ReadonlyMap<number, Bytes>;

/** Return extensions in ascending order of their types. */
export function writeExtensions(extensions: Extensions): Bytes {
  const sorted = [...extensions].sort(([one], [other]) => one - other);
  return vec16(concat(...sorted.map(([kind, data]) => concat(u16(kind), vec16(data)))));
}

export function readExtensions(data: Uint8Array): Extensions {
  const reader = new Reader(data);
  const found = new Map<number, Bytes>();
  let last = -1;
  while (reader.more) {
    const kind = reader.number(2);
    if (kind <= last) throw new SessionRefused(PROTOCOL, "order of extensions");
    last = kind;
    found.set(kind, reader.vec16());
  }
  return found;
}
