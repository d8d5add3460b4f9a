/** One gateway connection that always comes back: open, authenticate, keep alive, close, wait, again. */

import { nextAfter } from "../protocol/close";
import { decode, encode } from "../protocol/codec";
import type {
  ClientFrame,
  CommandName,
  Commands,
  Entry,
  ErrorFrame,
  HelloFrame,
  ReadyFrame,
  ServerFrame,
  SignalFrame,
} from "../protocol/messages";
import { backoffMs } from "./backoff";
import { Channel, type ChannelPorts, type End, type Seal } from "./channel";
import type { Known } from "./knownServer";
import { Refused, SignedOut, Unreachable } from "./problem";

const PING_MS = 20_000;
const PONG_MS = 10_000;
const READY_MS = 15_000;
const PROTOCOL_TWICE_MS = 60_000;
/** After a refusal that nobody proved: long enough that a forger gains nothing by repeating it. */
const HINT_MS = 60_000;
/** The code of a connection that merely ended. */
const LOST_CODE = 1006;
/** A character is at most three bytes of UTF-8 in a UTF-16 string, and the server takes 67,584 bytes. */
const BATCH_CHARS = 20_000;
const BATCH_FRAMES = 200;

export type StopReason = "signed_out" | "replaced" | "protocol" | "wrong_host" | "update_needed" | "closed";

export type Link =
  | { phase: "connecting" }
  | { phase: "online" }
  | { phase: "waiting"; retryAt: number; calm: boolean; because?: "wrong_host" | "update_needed" }
  | { phase: "stopped"; reason: StopReason }
  /** The server shows a key that is not the known one. Nothing was sent to it. */
  | { phase: "stopped"; reason: "unknown_key"; presented: string; known: Known }
  /** The server, or somebody in between, does not seal any more. Nothing was sent to it. */
  | { phase: "stopped"; reason: "downgraded"; known: Known };

export interface Ports extends ChannelPorts {
  /** Return an access token; throw `SignedOut` when there is none to be had. */
  token(fresh: boolean): Promise<string>;
  /** The newest `seq` held of each room. */
  held(): Record<string, number>;
  random(): number;
}

export interface Listener {
  link(link: Link): void;
  sealed(seal: Seal): void;
  hello(frame: HelloFrame): void;
  ready(frame: ReadyFrame): void;
  entry(entry: Entry): void;
  signal(frame: SignalFrame): void;
}

type Outcome<T> = { data: T } | { error: Error };
type Settle = (outcome: Outcome<unknown>) => void;

export class Connection {
  link: Link = { phase: "connecting" };
  private channel: Channel | null = null;
  /** Counts channels, so that what an old one tells is not heard. */
  private lastChannel = 0;
  private isSealed = false;
  /** The key of a server that was met for the first time just now. */
  private firstKey: string | null = null;
  private readonly waiting = new Map<string, Settle>();
  private outgoing: ClientFrame[] = [];
  private flushing = false;
  private lastId = 0;
  private attempt = 0;
  private freshToken = false;
  private drainMs: number | null = null;
  private protocolErrorAt = Number.NEGATIVE_INFINITY;
  private timers = new Map<string, ReturnType<typeof setTimeout>>();

  constructor(
    private readonly ports: Ports,
    private readonly listener: Listener,
  ) {}

  start(): void {
    void this.connect();
  }

  /** End for good. */
  stop(reason: StopReason = "closed"): void {
    this.dropChannel();
    this.set({ phase: "stopped", reason });
  }

  /** Begin anew after it was stopped. */
  restart(): void {
    if (this.link.phase === "stopped") void this.connect();
  }

  /** Try now instead of at the end of the waiting time. */
  retryNow(): void {
    if (this.link.phase === "waiting") void this.connect();
  }

  /** Ask at once whether the other side is there, for example after the computer slept. */
  check(): void {
    if (this.link.phase === "online") this.ping();
    else this.retryNow();
  }

  get isOnline(): boolean {
    return this.link.phase === "online";
  }

  /** Send a command; the promise ends with its reply, `Refused`, or `Unreachable` when the connection ended before. */
  call<N extends CommandName>(op: N, args: Commands[N]["args"]): Promise<Commands[N]["reply"]> {
    return new Promise((resolve, reject) => {
      this.command(op, args, (outcome) => {
        if ("error" in outcome) reject(outcome.error);
        else resolve(outcome.data as Commands[N]["reply"]);
      });
    });
  }

  /** Send a command; `settle` runs before the frames that follow the answer are handled. */
  command<N extends CommandName>(
    op: N,
    args: Commands[N]["args"],
    settle: (outcome: Outcome<Commands[N]["reply"]>) => void,
  ): void {
    if (!this.isOnline) {
      settle({ error: new Unreachable("You are not connected.") });
      return;
    }
    this.send(op, args, settle as Settle);
  }

  private send(op: string, args: object, settle: Settle): void {
    this.lastId += 1;
    const id = String(this.lastId);
    this.waiting.set(id, settle);
    this.enqueue({ op, id, ...args });
  }

  private enqueue(frame: ClientFrame): void {
    this.outgoing.push(frame);
    if (this.flushing) return;
    this.flushing = true;
    queueMicrotask(() => {
      this.flushing = false;
      this.flush();
    });
  }

  private flush(): void {
    const { channel } = this;
    const frames = this.outgoing;
    this.outgoing = [];
    if (!channel) return;
    let batch: ClientFrame[] = [];
    let chars = 0;
    for (const frame of frames) {
      const size = JSON.stringify(frame).length;
      if (batch.length && (chars + size > BATCH_CHARS || batch.length >= BATCH_FRAMES)) {
        channel.send(encode(batch), batch.length);
        batch = [];
        chars = 0;
      }
      batch.push(frame);
      chars += size;
    }
    if (batch.length) channel.send(encode(batch), batch.length);
  }

  private async connect(): Promise<void> {
    this.clearTimers();
    this.set({ phase: "connecting" });
    let token: string;
    try {
      token = await this.ports.token(this.freshToken);
      this.freshToken = false;
    } catch (error) {
      if (this.link.phase === "stopped") return;
      if (error instanceof SignedOut) this.stop("signed_out");
      else this.waitAndRetry(backoffMs(this.attempt++, this.ports.random));
      return;
    }
    if (this.link.phase === "stopped") return;
    await this.openChannel(token);
  }

  private async openChannel(token: string): Promise<void> {
    this.lastChannel += 1;
    const mine = this.lastChannel;
    const isMine = () => mine === this.lastChannel;
    this.drainMs = null;
    this.timer("ready", READY_MS, () => this.lose({ kind: "lost" }));
    try {
      const channel = await Channel.open(this.ports, {
        opened: (seal) => isMine() && this.opened(seal, token),
        text: (text) => isMine() && this.receive(text, token),
        rekeyed: (seal) => isMine() && this.listener.sealed(seal),
        ended: (end) => isMine() && this.lose(end),
      });
      if (isMine()) this.channel = channel;
      else channel.close();
    } catch {
      if (isMine()) this.lose({ kind: "lost" });
    }
  }

  private opened(seal: Seal, token: string): void {
    this.isSealed = "sealed" in seal;
    this.firstKey = "sealed" in seal && seal.sealed.isFirst ? seal.sealed.keyId : null;
    this.listener.sealed(seal);
    // Whoever sealed it is the server: there is no need to wait for its greeting.
    if (this.isSealed) this.authenticate(token);
  }

  private receive(text: string, token: string): void {
    let frames: ServerFrame[];
    try {
      frames = decode(text);
    } catch {
      this.lose({ kind: "refused", code: 4400 });
      return;
    }
    for (const frame of frames) {
      // A listener may have ended the connection in the middle of a message.
      if (!this.channel) return;
      this.handle(frame, token);
    }
  }

  private handle(frame: ServerFrame, token: string): void {
    switch (frame.op) {
      case "hello":
        this.listener.hello(frame);
        if (this.firstKey && frame.root) this.ports.server.keepRoot(this.firstKey, frame.root).catch(() => {});
        if (!this.isSealed) this.authenticate(token);
        break;
      case "ready":
        this.becomeReady(frame);
        break;
      case "event":
        this.listener.entry(frame);
        break;
      case "signal":
        if (frame.type === "auth.expiring") this.timer("renew", 0, () => this.renew());
        else this.listener.signal(frame);
        break;
      case "reply":
        this.settle(frame.id, { data: frame.data });
        break;
      case "error":
        this.refuse(frame);
        break;
      case "pong":
        this.settle(frame.id, { data: frame });
        break;
      case "drain":
        this.drainMs = frame.after_ms;
        break;
    }
  }

  /** Far below 8 KiB, which is all that the server takes before: a token, and at most 30 rooms with their positions. */
  private authenticate(token: string): void {
    this.lastId += 1;
    const held = this.ports.held();
    const resume = Object.keys(held).length ? { resume: held } : {};
    this.enqueue({ op: "auth", id: String(this.lastId), token, ...resume });
  }

  private becomeReady(frame: ReadyFrame): void {
    this.attempt = 0;
    this.clearTimers();
    this.listener.ready(frame);
    this.set({ phase: "online" });
    this.timer("ping", PING_MS, () => this.ping());
    if (frame.expires_in !== undefined) this.renewIn(frame.expires_in * 1_000);
  }

  private refuse(frame: ErrorFrame): void {
    if (frame.id && this.waiting.has(frame.id)) this.settle(frame.id, { error: new Refused(frame) });
  }

  private settle(id: string, outcome: Outcome<unknown>): void {
    const settle = this.waiting.get(id);
    this.waiting.delete(id);
    settle?.(outcome);
  }

  private ping(): void {
    if (!this.isOnline) return;
    this.timer("pong", PONG_MS, () => this.lose({ kind: "lost" }));
    this.send("ping", {}, () => {
      this.clearTimer("pong");
      this.timer("ping", PING_MS, () => this.ping());
    });
  }

  /** Extend the connection before its token ends, early enough for a few failures. */
  private renewIn(leftMs: number): void {
    this.timer("renew", Math.max(leftMs / 2, leftMs - 120_000), () => this.renew());
  }

  private async renew(): Promise<void> {
    try {
      const token = await this.ports.token(true);
      if (this.isOnline) await this.call("auth", { token });
      this.renewIn(600_000);
    } catch (error) {
      if (error instanceof SignedOut) this.stop("signed_out");
      else if (this.isOnline) this.renewIn(40_000);
    }
  }

  /** The connection is gone, by the other side's will or by ours. */
  private lose(end: End): void {
    const drainMs = this.drainMs;
    this.dropChannel(end);
    switch (end.kind) {
      case "unknown_key":
        this.set({ phase: "stopped", reason: "unknown_key", presented: end.presented, known: end.known });
        return;
      case "downgraded":
        this.set({ phase: "stopped", reason: "downgraded", known: end.known });
        return;
      case "lost":
        this.follow(LOST_CODE, 0, drainMs);
        return;
      case "hint":
        this.heed(end.code);
        return;
      case "closed":
        this.follow(end.code, end.afterMs, drainMs);
        return;
      case "refused":
        this.follow(end.code, 0, null);
    }
  }

  /** What a refusal asks for that nobody proved. It never clears a token or a key, and it costs a minute at most. */
  private heed(code: number): void {
    const next = nextAfter(code);
    const isHarmless = next === "network" || next === "drain" || next === "overloaded";
    if (isHarmless) {
      this.waitAndRetry(this.jitter());
      return;
    }
    const because = next === "wrong_host" || next === "update_needed" ? next : undefined;
    this.waitAndRetry(HINT_MS + this.jitter(), false, because);
  }

  /** What a close code asks for that the server or this side gave. */
  private follow(code: number, afterMs: number, drainMs: number | null): void {
    const told = nextAfter(code);
    // A server that said `drain` may be gone before it says goodbye.
    const next = told === "network" && drainMs !== null ? "drain" : told;
    switch (next) {
      case "replaced":
      case "wrong_host":
      case "update_needed":
        this.set({ phase: "stopped", reason: next });
        return;
      case "protocol": {
        const again = this.ports.now() - this.protocolErrorAt < PROTOCOL_TWICE_MS;
        this.protocolErrorAt = this.ports.now();
        if (again) this.set({ phase: "stopped", reason: "protocol" });
        else this.waitAndRetry(this.jitter());
        return;
      }
      case "unauthorized":
        this.freshToken = true;
        // The first time at once: a token that ended is nobody's fault. A server that keeps refusing gets the waits of any other.
        if (this.attempt === 0) {
          this.attempt = 1;
          void this.connect();
        } else this.waitAndRetry(this.jitter());
        return;
      case "drain":
        this.waitAndRetry((afterMs || (drainMs ?? 0)) + Math.round(this.ports.random() * 1_000), true);
        return;
      default:
        this.waitAndRetry(this.isSealed ? afterMs + this.jitter() : this.jitter());
    }
  }

  private jitter(): number {
    const ms = backoffMs(this.attempt, this.ports.random);
    this.attempt += 1;
    return ms;
  }

  private dropChannel(end?: End): void {
    const { channel } = this;
    this.channel = null;
    this.lastChannel += 1;
    this.outgoing = [];
    this.clearTimers();
    channel?.close(end?.kind === "refused" ? end.code : 1000);
    const settles = [...this.waiting.values()];
    this.waiting.clear();
    const tooBig = end?.kind === "closed" && nextAfter(end.code) === "too_big";
    const error = tooBig
      ? new Refused({
          code: "too_large",
          title: "The request is too large",
          status: 413,
          detail: "This is too large to send.",
        })
      : new Unreachable("The connection was lost.");
    for (const settle of settles) settle({ error });
  }

  private waitAndRetry(ms: number, calm = false, because?: "wrong_host" | "update_needed"): void {
    if (this.link.phase === "stopped") return;
    this.set({ phase: "waiting", retryAt: this.ports.now() + ms, calm, because });
    this.timer("retry", ms, () => void this.connect());
  }

  private set(link: Link): void {
    if (link.phase === this.link.phase && link.phase !== "waiting") return;
    this.link = link;
    this.listener.link(link);
  }

  private timer(name: string, ms: number, run: () => void): void {
    this.clearTimer(name);
    this.timers.set(name, setTimeout(run, ms));
  }

  private clearTimer(name: string): void {
    clearTimeout(this.timers.get(name));
    this.timers.delete(name);
  }

  private clearTimers(): void {
    for (const name of [...this.timers.keys()]) this.clearTimer(name);
  }
}
