/**
 * One WebSocket, sealed or in the clear, as a channel of texts: the handshake, one record for each flush, and how it ended.
 *
 * What a channel tells as `closed` was said by the server itself. A WebSocket that merely ends is a lost network, whatever its
 * code: anybody in between can forge that.
 */

import { type Bytes, hex, NO_COMMON, PROTOCOL, SessionRefused, unhex, utf8 } from "../crypto/wire";
import { ClientHandshake, UnknownKey } from "../protocol/handshake";
import { SUBPROTOCOL_CLEAR, SUBPROTOCOL_SEALED } from "../protocol/messages";
import { ClientSession, PAYLOAD_MAX, pack, REKEY_MS, type SessionClock } from "../protocol/session";
import type { Known, KnownServer } from "./knownServer";

const TOO_BIG = 1009;
/** In one record, whatever the number of texts: the server takes no more. */
const FRAMES_MAX = 256;
/** Records that wait to be opened while keys are made: the largest one, and a megabyte. */
const WAITING_BYTES_MAX = 17 * 1_024 * 1_024;

export interface SocketLike {
  readonly readyState: number;
  readonly protocol: string;
  binaryType: string;
  onopen: ((event: never) => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: ((event: { code: number }) => void) | null;
  onerror: ((event: never) => void) | null;
  send(data: string | Bytes): void;
  close(code?: number): void;
}

/** How a connection is sealed. */
export interface Sealed {
  suite: number;
  /** Hexadecimal digits. */
  keyId: string;
  known: Known;
  /** Whether this is the first time that this browser meets the server sealed. */
  isFirst: boolean;
  since: number;
  epoch: number;
  /** When the keys in use were made. */
  epochSince: number;
}

/** Why a connection is not sealed: this page may not use the browser's cryptography, or the server does not offer it. */
export type Clear = "insecure_page" | "not_offered";

export type Seal = { sealed: Sealed } | { clear: Clear };

export type End =
  /** The server said so, in a sealed record or in the clear sub-protocol. */
  | { kind: "closed"; code: number; afterMs: number }
  /** The WebSocket ended, and nobody proved why. */
  | { kind: "lost" }
  /** The other side ended the handshake. Nothing proves that it was the server. */
  | { kind: "hint"; code: number }
  /** This side ended it. */
  | { kind: "refused"; code: number }
  | { kind: "unknown_key"; presented: string; known: Known }
  | { kind: "downgraded"; known: Known };

export interface ChannelListener {
  /** Once, before any text; texts can be sent from now on. */
  opened(seal: Seal): void;
  text(text: string): void;
  /** The keys changed. */
  rekeyed(seal: Seal): void;
  ended(end: End): void;
}

export interface ChannelPorts {
  open(url: string, protocols: string[]): SocketLike;
  url: string;
  server: KnownServer;
  now(): number;
}

const clock: SessionClock = { monotonicMs: () => performance.now(), wallMs: () => Date.now() };

/** Pages over plain http on another machine have no `crypto.subtle`. */
const canSeal = () => globalThis.crypto?.subtle !== undefined;

export class Channel {
  private socket: SocketLike | null = null;
  private phase: "opening" | "handshake" | "clear" | "sealed" | "ended" = "opening";
  private handshake: Promise<ClientHandshake> | null = null;
  private session: ClientSession | null = null;
  private sealed: Sealed | null = null;
  /** Records in the order in which they came, one at a time. */
  private taking: Promise<void> = Promise.resolve();
  private waitingBytes = 0;
  private texts: { text: Bytes; frames: number }[] = [];
  private rekeyTimer: ReturnType<typeof setTimeout> | undefined;
  private readonly decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

  private constructor(
    private readonly ports: ChannelPorts,
    private readonly known: Known,
    private readonly listener: ChannelListener,
  ) {}

  /** Open a channel; throws when the browser refuses to or its storage cannot be read. */
  static async open(ports: ChannelPorts, listener: ChannelListener): Promise<Channel> {
    const channel = new Channel(ports, await ports.server.load(), listener);
    channel.connect();
    return channel;
  }

  private connect(): void {
    const offered = canSeal() ? [SUBPROTOCOL_SEALED, SUBPROTOCOL_CLEAR] : [SUBPROTOCOL_CLEAR];
    const socket = this.ports.open(this.ports.url, offered);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.choose(socket.protocol, offered);
    socket.onmessage = (event) => this.receive(event.data);
    socket.onclose = (event) => this.socketEnded(event.code);
    if (canSeal()) {
      const pins = this.known.keys.map(unhex);
      const { host } = this.ports.server;
      this.handshake = ClientHandshake.begin({ host, pins, encoding: "json", offered, clock });
      this.handshake.catch(() => {}); // Whoever awaits it is told.
    }
  }

  /** Send a text that holds so many frames. All texts of one turn go into one record, as far as they fit. */
  send(text: string, frames: number): void {
    if (this.phase === "clear") this.socket?.send(text);
    if (this.phase !== "sealed") return;
    this.texts.push({ text: utf8(text), frames });
    if (this.texts.length === 1) queueMicrotask(() => this.flush());
  }

  /** End it from here. Nothing more is told. */
  close(code = 1000): void {
    void this.finish(code);
  }

  /** Ask nothing more of the other side, and tell why. */
  private end(end: End, code = 1000): void {
    if (this.phase === "ended") return;
    void this.finish(code);
    this.listener.ended(end);
  }

  private async finish(code: number): Promise<void> {
    const { socket, session } = this;
    if (this.phase === "ended") return;
    const hadKeys = this.phase === "sealed";
    this.phase = "ended";
    this.session = null;
    this.texts = [];
    clearTimeout(this.rekeyTimer);
    if (!socket) return;
    socket.onmessage = null;
    socket.onclose = null;
    if (session && hadKeys) await session.close(code);
    if (socket.readyState < 2) socket.close(code >= 4000 || code === 1000 ? code : 1000);
  }

  private socketEnded(code: number): void {
    // What came before the end is still being opened; a close record may be in it.
    this.taking = this.taking.then(() => {
      if (this.phase === "clear") this.end({ kind: "closed", code, afterMs: 0 });
      else if (this.phase === "sealed") this.end({ kind: "lost" });
      else this.end({ kind: "hint", code });
    });
  }

  private refuse(error: unknown): void {
    const code = error instanceof SessionRefused ? error.code : PROTOCOL;
    if (error instanceof UnknownKey) void this.judge(hex(error.keyId));
    else this.end({ kind: "refused", code }, code);
  }

  /** A key that is not known: either the server's root names it, and the next handshake will do, or nobody does. */
  private async judge(presented: string): Promise<void> {
    const { socket } = this;
    if (!socket || this.phase === "ended") return;
    socket.onmessage = null;
    socket.onclose = null;
    this.phase = "opening";
    socket.close(PROTOCOL);
    const isListed = await this.ports.server.isListed(presented).catch(() => false);
    this.end(isListed ? { kind: "lost" } : { kind: "unknown_key", presented, known: this.known }, PROTOCOL);
  }

  // ── Opening ────────────────────────────────────────────────────────────────────────────────────────────────────────

  private choose(protocol: string, offered: readonly string[]): void {
    if (!offered.includes(protocol)) {
      this.refuse(new SessionRefused(NO_COMMON, "sub-protocol"));
    } else if (protocol === SUBPROTOCOL_SEALED) {
      this.phase = "handshake";
      this.taking = this.taking.then(() => this.greet()).catch((error) => this.refuse(error));
    } else if (this.known.wasSealed || (canSeal() && this.known.keys.length)) {
      this.end({ kind: "downgraded", known: this.known }, PROTOCOL);
    } else {
      this.phase = "clear";
      this.listener.opened({ clear: canSeal() ? "not_offered" : "insecure_page" });
    }
  }

  private async greet(): Promise<void> {
    const handshake = await this.handshake;
    if (handshake && this.phase === "handshake") this.socket?.send(handshake.clientHello);
  }

  private receive(data: unknown): void {
    if (this.phase === "clear") {
      if (typeof data === "string") this.listener.text(data);
      else this.refuse(new SessionRefused(PROTOCOL, "binary"));
      return;
    }
    if (!(data instanceof ArrayBuffer)) {
      this.refuse(new SessionRefused(PROTOCOL, "text"));
      return;
    }
    this.waitingBytes += data.byteLength;
    if (this.waitingBytes > WAITING_BYTES_MAX) {
      this.end({ kind: "lost" });
      return;
    }
    this.taking = this.taking
      .then(async () => {
        this.waitingBytes -= data.byteLength;
        await this.take(new Uint8Array(data));
      })
      .catch((error) => this.refuse(error));
  }

  private async take(data: Bytes): Promise<void> {
    if (this.phase === "handshake") await this.shakeHands(data);
    else if (this.phase === "sealed" && this.session) await this.openRecord(this.session, data);
  }

  private async shakeHands(data: Bytes): Promise<void> {
    const proved = await (await this.handshake)?.take(data);
    if (!proved) return;
    const session = new ClientSession(proved.established, (record) => this.socket?.send(record));
    const keyId = hex(proved.keyId);
    const isFirst = !this.known.keys.length;
    // Kept before any token is sent.
    const known = await this.ports.server.meet(keyId);
    if (!known.keys.includes(keyId)) throw new UnknownKey(proved.keyId); // Another tab was first, with another key.
    if (this.phase !== "handshake") return;
    this.socket?.send(proved.clientFin);
    const since = this.ports.now();
    this.sealed = { suite: session.suite, keyId, known, isFirst, since, epoch: 0, epochSince: since };
    this.session = session;
    this.handshake = null;
    this.phase = "sealed";
    session.onRekey = (phase) => this.followRekey(phase, session);
    this.listener.opened({ sealed: this.sealed });
  }

  // ── Sealed ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  private async openRecord(session: ClientSession, record: Bytes): Promise<void> {
    for (const message of await session.open(record)) {
      if (this.phase !== "sealed") return;
      this.listener.text(this.decoder.decode(message));
    }
    const { peerClose } = session;
    if (peerClose) this.end({ kind: "closed", ...peerClose }, peerClose.code);
  }

  private flush(): void {
    const { session, texts } = this;
    this.texts = [];
    if (!session) return;
    let batch: Bytes[] = [];
    let size = 0;
    let count = 0;
    const seal = () => {
      session.send(pack(batch)).catch((error) => this.refuse(error));
      batch = [];
      size = 0;
      count = 0;
    };
    for (const { text, frames } of texts) {
      const needs = text.length + 4;
      if (needs > PAYLOAD_MAX) {
        this.end({ kind: "closed", code: TOO_BIG, afterMs: 0 });
        return;
      }
      if (batch.length && (size + needs > PAYLOAD_MAX || count + frames > FRAMES_MAX)) seal();
      batch.push(text);
      size += needs;
      count += frames;
    }
    if (batch.length) seal();
  }

  private followRekey(phase: "begun" | "done", session: ClientSession): void {
    clearTimeout(this.rekeyTimer);
    if (this.phase !== "sealed" || !this.sealed) return;
    if (phase === "begun") {
      this.rekeyTimer = setTimeout(() => this.end({ kind: "refused", code: 4403 }, 4403), REKEY_MS);
      return;
    }
    this.sealed = { ...this.sealed, epoch: session.epoch, epochSince: this.ports.now() };
    this.listener.rekeyed({ sealed: this.sealed });
  }
}
