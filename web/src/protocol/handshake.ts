/**
 * The client's side of the handshake (spec/session-layer.md 3), without I/O: messages in, messages out, at the end a session.
 *
 * No key is used before every check has passed. One round trip: the first record may follow ClientFin at once.
 */

import {
  type ClientHello,
  Extension,
  PINS_MAX,
  readServerAuth,
  readServerFin,
  readServerHello,
  type ServerHello,
  writeClientFin,
  writeClientHello,
} from "../crypto/handshake";
import { transcript } from "../crypto/hash";
import { HANDSHAKE, keyIdOf, verify } from "../crypto/identity";
import { EphemeralKey, type Suite, suites } from "../crypto/keyExchange";
import { type EpochKeys, holds, KeySchedule, tagOf } from "../crypto/keySchedule";
import {
  type Bytes,
  concat,
  equal,
  NO_COMMON,
  names,
  PROTOCOL,
  Reader,
  readNames,
  SessionRefused,
  utf8,
} from "../crypto/wire";
import { SUBPROTOCOL_SEALED } from "./messages";
import type { Established, SessionClock } from "./session";

/** Between ServerHello and ServerAuth. */
const ANSWER_MS = 10_000;

/** The server is another one than the one pinned. */
export class UnknownKey extends SessionRefused {
  constructor(readonly keyId: Bytes) {
    super(PROTOCOL, "an identity key that is not pinned");
  }
}

export interface HandshakeOptions {
  /** As dialled: `name[:port]`, lower case. */
  host: string;
  /** Ids of keys that may be the server's; none takes any, to be shown and kept. */
  pins: readonly Bytes[];
  encoding: "json" | "msgpack";
  /** Sub-protocols that were offered to the WebSocket. */
  offered: readonly string[];
  clock: SessionClock;
  suites?: readonly Suite[];
  ephemeral?(suite: Suite): Promise<EphemeralKey>;
  random?(size: number): Bytes;
}

/** What the server proved, and what is to be sent before the first record. */
export interface Proved {
  established: Established;
  clientFin: Bytes;
  keyId: Bytes;
}

export class ClientHandshake {
  private readonly said: Bytes[];
  private serverHello: ServerHello | null = null;
  private serverHelloAt = 0;
  private spki: Bytes = new Uint8Array();
  private keys: EpochKeys | null = null;
  private readonly schedule = new KeySchedule();

  private constructor(
    private readonly options: Required<HandshakeOptions>,
    private ephemerals: readonly EphemeralKey[],
    private readonly hello: ClientHello,
    readonly clientHello: Bytes,
  ) {
    this.said = [clientHello];
  }

  static async begin(options: HandshakeOptions): Promise<ClientHandshake> {
    const full: Required<HandshakeOptions> = {
      suites: options.suites ?? (await suites()),
      ephemeral: EphemeralKey.generate,
      random: (size) => crypto.getRandomValues(new Uint8Array(size)),
      ...options,
    };
    const ephemerals = await Promise.all(full.suites.map((suite) => full.ephemeral(suite)));
    const extensions = new Map<number, Bytes>([
      [Extension.HOST, utf8(full.host)],
      [Extension.PROTOCOLS, concat(names(full.offered), names([full.encoding]))],
    ]);
    if (full.pins.length) extensions.set(Extension.PINS, concat(...full.pins.slice(0, PINS_MAX)));
    const shares = new Map(ephemerals.map(({ suite, share }) => [suite, share]));
    const hello = { random: full.random(32), shares, extensions };
    return new ClientHandshake(full, ephemerals, hello, writeClientHello(hello));
  }

  /**
   * Take ServerHello, ServerAuth and ServerFin, in this order and one at a time; return what was proved after the third.
   *
   * @throws SessionRefused The handshake failed; `UnknownKey` when the key is not pinned.
   */
  async take(data: Bytes): Promise<Proved | null> {
    if (this.said.length === 1) this.takeServerHello(data);
    else if (this.said.length === 2) await this.takeServerAuth(data);
    else if (this.said.length === 3) return this.takeServerFin(data);
    else throw new SessionRefused(PROTOCOL, "a message after the handshake");
    return null;
  }

  private takeServerHello(data: Bytes): void {
    const found = readServerHello(data, this.hello);
    const selected = found.extensions.get(Extension.PROTOCOLS);
    if (!selected || !isSelection(selected, this.options.encoding)) {
      throw new SessionRefused(NO_COMMON, "sub-protocol or encoding");
    }
    this.serverHello = found;
    this.serverHelloAt = this.options.clock.monotonicMs();
    this.said.push(data);
  }

  private async takeServerAuth(data: Bytes): Promise<void> {
    const hello = this.serverHello;
    if (!hello || this.options.clock.monotonicMs() - this.serverHelloAt > ANSWER_MS) {
      throw new SessionRefused(PROTOCOL, "ServerAuth came late");
    }
    const { spki, signature } = readServerAuth(data);
    if (!equal(await keyIdOf(spki), hello.keyId)) throw new SessionRefused(PROTOCOL, "key id");
    const { pins } = this.options;
    if (pins.length && !pins.some((pin) => equal(pin, hello.keyId))) throw new UnknownKey(hello.keyId);
    if (!(await verify(spki, HANDSHAKE, await transcript(...this.said), signature))) {
      throw new SessionRefused(PROTOCOL, "signature");
    }
    this.said.push(data);
    this.spki = spki;
    const own = this.ephemerals.find(({ suite }) => suite === hello.suite);
    this.ephemerals = [];
    if (!own) throw new SessionRefused(PROTOCOL, "suite");
    this.keys = await this.schedule.advance(await own.exchange(hello.share), await transcript(...this.said));
  }

  private async takeServerFin(data: Bytes): Promise<Proved> {
    const { serverHello: hello, keys } = this;
    const tag = readServerFin(data);
    if (!hello || !keys || !(await holds(keys.serverFin, tag, keys.transcript))) {
      throw new SessionRefused(PROTOCOL, "ServerFin");
    }
    this.said.push(data);
    const { clock, ephemeral, random } = this.options;
    const established: Established = {
      sessionId: hello.sessionId,
      suite: hello.suite,
      keys,
      schedule: this.schedule,
      ageMs: hello.ageMs,
      records: hello.records,
      clock,
      offsetMs: hello.timeMs - this.serverHelloAt,
      ephemeral,
      random,
      spki: this.spki,
    };
    const clientFin = writeClientFin(await tagOf(keys.clientFin, await transcript(...this.said)));
    return { established, clientFin, keyId: hello.keyId };
  }
}

/** Return whether the server selected what is spoken here, and nothing else. */
function isSelection(data: Bytes, encoding: string): boolean {
  const reader = new Reader(data);
  const subprotocols = readNames(reader.vec16());
  const encodings = readNames(reader.vec16());
  reader.end();
  return subprotocols.join() === SUBPROTOCOL_SEALED && encodings.join() === encoding;
}
