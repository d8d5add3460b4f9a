/**
 * The client's side of a sealed session (spec/session-layer.md): records in both directions, rekey, close. Without I/O: what
 * came goes into `open`, what is to be sent comes out of `emit`, in order. `protocol/handshake` makes sessions.
 */

import { sha256 } from "../crypto/hash";
import { REKEY, verify } from "../crypto/identity";
import type { EphemeralKey, Suite } from "../crypto/keyExchange";
import { type EpochKeys, holds, type KeySchedule, tagOf } from "../crypto/keySchedule";
import { Content, Direction, Exhausted, RecordOpener, RecordSealer } from "../crypto/record";
import {
  type Bytes,
  bytes,
  concat,
  framed,
  PROTOCOL,
  REKEY_REQUIRED,
  Reader,
  SessionRefused,
  u16,
  u32,
  utf8,
  vec16,
} from "../crypto/wire";
import { Chain } from "./chain";
import { ReplayDetector } from "./replayDetector";

/** Messages in one record. */
export const MESSAGES_MAX = 256;
/** What a client's record may hold, padding included: the payload and one byte for its kind. */
export const PAYLOAD_MAX = 65_535;
/** A page of history is one message. */
const INNER_MAX_SERVER = 16 * 1_024 * 1_024;
/** A rekey that takes longer ends the session. */
export const REKEY_MS = 30_000;
const AFTER_MS_MAX = 300_000;
/** By so much the two clocks may drift apart; more means that the computer slept. */
const SLEPT_MS = 30_000;

const Control = { INIT: 0x21, REPLY: 0x22, DONE: 0x23, CONFIRM: 0x24 } as const;

/** In milliseconds. The monotonic clock drives the session; the wall clock only tells that the computer slept. */
export interface SessionClock {
  monotonicMs(): number;
  wallMs(): number;
}

/** How the peer said goodbye, in a sealed record. */
export interface CloseNotice {
  code: number;
  /** When to come back, at most 300,000. */
  afterMs: number;
}

/** What a handshake hands to its session. */
export interface Established {
  sessionId: Bytes;
  suite: Suite;
  keys: EpochKeys;
  schedule: KeySchedule;
  /** Hard limits of an epoch. */
  ageMs: number;
  records: number;
  clock: SessionClock;
  /** The server's time minus the own monotonic one. */
  offsetMs: number;
  ephemeral(suite: Suite): Promise<EphemeralKey>;
  random(size: number): Bytes;
  /** The server's public key, which signs each rekey. */
  spki: Bytes;
}

/** Return the payload of an application record: each message with its length before it. */
export function pack(messages: readonly Uint8Array[]): Bytes {
  return concat(...messages.flatMap((message) => [u32(message.length), message]));
}

/** Return the messages of an application record; `SessionRefused` for none, too many, an empty one or wrong lengths. */
export function unpack(payload: Bytes): Bytes[] {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  const found: Bytes[] = [];
  let at = 0;
  while (at < payload.length) {
    const size = at + 4 <= payload.length ? view.getUint32(at) : 0;
    at += 4;
    if (!size || at + size > payload.length || found.length === MESSAGES_MAX) {
      throw new SessionRefused(PROTOCOL, "messages of a record");
    }
    found.push(payload.subarray(at, at + size));
    at += size;
  }
  if (!found.length) throw new SessionRefused(PROTOCOL, "an empty record");
  return found;
}

export class ClientSession {
  /** How the peer said goodbye. */
  peerClose: CloseNotice | null = null;
  /** Called when a rekey begins and when both sides have proved the new keys. */
  onRekey: (phase: "begun" | "done") => void = () => {};
  private readonly incoming = new Chain();
  private readonly outgoing = new Chain();
  private readonly clock: SessionClock;
  private driftMs: number;
  private offsetMs: number;
  private keys: EpochKeys;
  private next: EpochKeys | null = null;
  private sealer: RecordSealer;
  private opener: RecordOpener;
  private detector = new ReplayDetector(0);
  private sealSince: number;
  private openSince: number;
  private isClosed = false;

  constructor(
    private readonly made: Established,
    private readonly emit: (record: Bytes) => void,
  ) {
    this.clock = made.clock;
    this.offsetMs = made.offsetMs;
    this.keys = made.keys;
    this.sealer = new RecordSealer(Direction.CLIENT, made.sessionId, 0, made.keys.client, made.records);
    this.opener = new RecordOpener(Direction.SERVER, made.sessionId, 0, made.keys.server, made.records);
    this.sealSince = this.openSince = this.clock.monotonicMs();
    this.driftMs = this.clock.wallMs() - this.sealSince;
  }

  get suite(): Suite {
    return this.made.suite;
  }

  /** Number of the keys that this side seals with. */
  get epoch(): number {
    return this.sealer.epoch;
  }

  /** 32 bytes that only the two sides of this epoch know. */
  get exporter(): Bytes {
    return this.keys.exporter;
  }

  // ── Sealing ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Seal and emit a payload made by `pack`, after all that was asked for before.
   *
   * @throws SessionRefused With 4403: these keys are used up, or the session is closed. Nothing was sealed.
   */
  send(payload: Bytes): Promise<void> {
    return this.outgoing.run(() => this.seal(Content.APPLICATION, payload));
  }

  /** Seal and emit the last record of this side; nothing when it was sealed before, or cannot be any more. */
  close(code: number, afterMs = 0): Promise<void> {
    return this.outgoing.run(async () => {
      if (this.isClosed) return;
      const content = concat(u16(code), u32(Math.min(afterMs, AFTER_MS_MAX)));
      await this.seal(Content.CLOSE, content).catch(() => {});
      this.isClosed = true;
    });
  }

  private async seal(kind: Content, content: Bytes): Promise<void> {
    if (this.isClosed) throw new SessionRefused(REKEY_REQUIRED, "the session is closed");
    const now = this.clock.monotonicMs();
    if (kind !== Content.CLOSE && now - this.sealSince >= this.made.ageMs) {
      throw new SessionRefused(REKEY_REQUIRED, "keys too old");
    }
    try {
      this.emit(await this.sealer.seal(kind, content, now + this.offsetMs));
    } catch (error) {
      if (error instanceof Exhausted) throw new SessionRefused(REKEY_REQUIRED, "keys used up");
      throw error;
    }
  }

  // ── Opening ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Return the messages of a record, after all records before it; none for one that is the session's own.
   *
   * @throws SessionRefused It is not the record that comes next. The owner answers with `close(error.code)` and ends.
   */
  open(record: Bytes): Promise<Bytes[]> {
    return this.incoming.run(() => this.openNext(record));
  }

  private async openNext(record: Bytes): Promise<Bytes[]> {
    if (this.peerClose) throw new SessionRefused(PROTOCOL, "a record after the close");
    const { epoch, seq, timestampMs } = await this.opener.authentic(record, INNER_MAX_SERVER);
    this.detector.admit(epoch, seq);
    const { kind, content } = await this.opener.decrypt(record, timestampMs);
    const now = this.clock.monotonicMs();
    if (Math.abs(this.clock.wallMs() - now - this.driftMs) > SLEPT_MS) {
      throw new SessionRefused(REKEY_REQUIRED, "the computer slept, or its clock was set");
    }
    // Delay can only lower the estimate of the server's clock: the highest is the best.
    this.offsetMs = Math.max(this.offsetMs, timestampMs - now);
    this.detector.fresh(timestampMs, now + this.offsetMs);
    if (kind === Content.CLOSE) {
      this.takeClose(content);
      return [];
    }
    if (now - this.openSince > this.made.ageMs) throw new SessionRefused(REKEY_REQUIRED, "keys too old");
    if (kind === Content.CONTROL) {
      await this.takeControl(content, timestampMs);
      return [];
    }
    if (kind !== Content.APPLICATION) throw new SessionRefused(PROTOCOL, "content type");
    return unpack(content);
  }

  private takeClose(content: Bytes): void {
    const reader = new Reader(content);
    const notice = { code: reader.number(2), afterMs: Math.min(reader.number(4), AFTER_MS_MAX) };
    reader.end();
    this.peerClose = notice;
  }

  // ── The next epoch ─────────────────────────────────────────────────────────────────────────────────────────────────

  private async takeControl(content: Bytes, timestampMs: number): Promise<void> {
    const kind = content[0];
    if (kind === Control.INIT && !this.next) await this.takeInit(content, timestampMs);
    else if (kind === Control.DONE && this.next) await this.takeDone(content, this.next);
    else throw new SessionRefused(PROTOCOL, "control record");
  }

  /** Number of the epoch whose keys both sides have proved. */
  private get provedEpoch(): number {
    return this.opener.epoch;
  }

  private expectNextEpoch(reader: Reader): void {
    reader.take(1);
    if (reader.number(4) !== this.provedEpoch + 1) throw new SessionRefused(PROTOCOL, "rekey of another epoch");
  }

  private async takeInit(content: Bytes, timestampMs: number): Promise<void> {
    const { suite, spki, schedule, random } = this.made;
    const reader = new Reader(content);
    this.expectNextEpoch(reader);
    reader.take(32);
    const share = reader.vec16();
    const signature = reader.vec16();
    reader.end();
    const offer = content.slice(0, content.length - 2 - signature.length);
    const digest = await sha256(concat(this.keys.transcript, framed(offer)));
    if (!(await verify(spki, REKEY, digest, signature))) throw new SessionRefused(PROTOCOL, "signature of the rekey");
    const own = await this.made.ephemeral(suite);
    const epoch = this.provedEpoch + 1;
    const reply = concat(bytes(Control.REPLY), u32(epoch), random(32), vec16(own.share));
    const secret = await own.exchange(share);
    const said = concat(utf8("scsl1 rekey"), this.keys.transcript, framed(content), framed(reply));
    const keys = await schedule.advance(secret, await sha256(said));
    const proof = await tagOf(keys.clientFin, keys.transcript);
    this.next = keys;
    this.onRekey("begun");
    // One piece of work: nothing else is sealed between the last record of the old keys and the first of the new ones.
    await this.outgoing.run(async () => {
      await this.seal(Content.CONTROL, reply);
      this.offsetMs = timestampMs - this.clock.monotonicMs();
      this.sealer = new RecordSealer(Direction.CLIENT, this.made.sessionId, epoch, keys.client, this.made.records);
      this.sealSince = this.clock.monotonicMs();
      await this.seal(Content.CONTROL, concat(bytes(Control.CONFIRM), u32(epoch), proof, vec16(new Uint8Array())));
    });
  }

  private async takeDone(content: Bytes, keys: EpochKeys): Promise<void> {
    const reader = new Reader(content);
    this.expectNextEpoch(reader);
    const tag = reader.take(32);
    reader.end();
    if (!(await holds(keys.serverFin, tag, keys.transcript))) throw new SessionRefused(PROTOCOL, "proof of the server");
    const epoch = this.provedEpoch + 1;
    this.opener = new RecordOpener(Direction.SERVER, this.made.sessionId, epoch, keys.server, this.made.records);
    this.openSince = this.clock.monotonicMs();
    this.detector = new ReplayDetector(epoch);
    this.driftMs = this.clock.wallMs() - this.openSince;
    this.keys = keys;
    this.next = null;
    this.onRekey("done");
  }
}
