/** One gateway connection that always comes back: open, authenticate, keep alive, close, wait, again. */

import { nextAfter } from "../protocol/close";
import { decode, encode } from "../protocol/codec";
import {
  type ClientFrame,
  type CommandName,
  type Commands,
  type Entry,
  type ErrorFrame,
  type HelloFrame,
  type ReadyFrame,
  type ServerFrame,
  type SignalFrame,
  SUBPROTOCOL,
} from "../protocol/messages";
import { backoffMs } from "./backoff";
import { Refused, SignedOut, Unreachable } from "./problem";

const PING_MS = 20_000;
const PONG_MS = 10_000;
const READY_MS = 15_000;
const PROTOCOL_TWICE_MS = 60_000;
/** A character is at most three bytes of UTF-8 in a UTF-16 string, and the server takes 67,584 bytes. */
const BATCH_CHARS = 20_000;
const BATCH_FRAMES = 200;

export type StopReason = "signed_out" | "replaced" | "protocol" | "closed";

export type Link =
  | { phase: "connecting" }
  | { phase: "online" }
  | { phase: "waiting"; retryAt: number; calm: boolean }
  | { phase: "stopped"; reason: StopReason };

export interface SocketLike {
  readonly readyState: number;
  onopen: ((event: never) => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: ((event: { code: number }) => void) | null;
  onerror: ((event: never) => void) | null;
  send(text: string): void;
  close(code?: number): void;
}

export interface Ports {
  open(url: string, protocol: string): SocketLike;
  url: string;
  /** Return an access token; throw `SignedOut` when there is none to be had. */
  token(fresh: boolean): Promise<string>;
  /** The newest `seq` held of each room. */
  held(): Record<string, number>;
  random(): number;
  now(): number;
}

export interface Listener {
  link(link: Link): void;
  hello(frame: HelloFrame): void;
  ready(frame: ReadyFrame): void;
  entry(entry: Entry): void;
  signal(frame: SignalFrame): void;
}

type Outcome<T> = { data: T } | { error: Error };
type Settle = (outcome: Outcome<unknown>) => void;

export class Connection {
  link: Link = { phase: "connecting" };
  private socket: SocketLike | null = null;
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
    this.dropSocket(1000);
    this.set({ phase: "stopped", reason });
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
    const socket = this.socket;
    const frames = this.outgoing;
    this.outgoing = [];
    if (socket?.readyState !== 1) return;
    let batch: ClientFrame[] = [];
    let chars = 0;
    for (const frame of frames) {
      const size = JSON.stringify(frame).length;
      if (batch.length && (chars + size > BATCH_CHARS || batch.length >= BATCH_FRAMES)) {
        socket.send(encode(batch));
        batch = [];
        chars = 0;
      }
      batch.push(frame);
      chars += size;
    }
    if (batch.length) socket.send(encode(batch));
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
    this.openSocket(token);
  }

  private openSocket(token: string): void {
    let socket: SocketLike;
    try {
      socket = this.ports.open(this.ports.url, SUBPROTOCOL);
    } catch {
      this.waitAndRetry(backoffMs(this.attempt++, this.ports.random));
      return;
    }
    this.socket = socket;
    this.drainMs = null;
    this.timer("ready", READY_MS, () => this.lose(1006));
    socket.onmessage = (event) => {
      if (socket === this.socket) this.receive(event.data, token);
    };
    socket.onclose = (event) => {
      if (socket === this.socket) this.lose(event.code);
    };
  }

  private receive(data: unknown, token: string): void {
    let frames: ServerFrame[];
    try {
      if (typeof data !== "string") throw new TypeError("binary");
      frames = decode(data);
    } catch {
      this.lose(4400);
      return;
    }
    for (const frame of frames) {
      // A listener may have ended the connection in the middle of a message.
      if (!this.socket) return;
      this.handle(frame, token);
    }
  }

  private handle(frame: ServerFrame, token: string): void {
    switch (frame.op) {
      case "hello":
        this.listener.hello(frame);
        this.authenticate(token);
        break;
      case "ready":
        this.becomeReady(frame);
        break;
      case "event":
        this.listener.entry(frame);
        break;
      case "signal":
        this.listener.signal(frame);
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
    this.timer("pong", PONG_MS, () => this.lose(1006));
    this.send("ping", {}, () => {
      this.clearTimer("pong");
      this.timer("ping", PING_MS, () => this.ping());
    });
  }

  /** Extend the connection before its token ends, early enough for a few failures. */
  private renewIn(leftMs: number): void {
    this.timer("renew", Math.max(leftMs / 2, leftMs - 120_000), async () => {
      try {
        const token = await this.ports.token(true);
        if (this.isOnline) await this.call("auth", { token });
        this.renewIn(600_000);
      } catch (error) {
        if (error instanceof SignedOut) this.stop("signed_out");
        else if (this.isOnline) this.renewIn(40_000);
      }
    });
  }

  /** The connection is gone, by the other side's will or by ours. */
  private lose(code: number): void {
    const drainMs = this.drainMs;
    this.dropSocket(undefined, code);
    const jitter = () => backoffMs(this.attempt++, this.ports.random);
    switch (nextAfter(code)) {
      case "replaced":
        this.set({ phase: "stopped", reason: "replaced" });
        return;
      case "protocol": {
        const again = this.ports.now() - this.protocolErrorAt < PROTOCOL_TWICE_MS;
        this.protocolErrorAt = this.ports.now();
        if (again) this.set({ phase: "stopped", reason: "protocol" });
        else this.waitAndRetry(jitter());
        return;
      }
      case "unauthorized":
        this.freshToken = true;
        // The first time at once: a token that ended is nobody's fault. A server that keeps refusing gets the waits of any other.
        if (this.attempt === 0) {
          this.attempt = 1;
          void this.connect();
        } else this.waitAndRetry(jitter());
        return;
      case "drain":
        this.waitAndRetry((drainMs ?? 0) + Math.round(this.ports.random() * 1_000), true);
        return;
      default:
        this.waitAndRetry(jitter());
    }
  }

  private dropSocket(ownCode?: number, code = 1006): void {
    const socket = this.socket;
    this.socket = null;
    this.outgoing = [];
    this.clearTimers();
    if (socket && socket.readyState < 2) socket.close(ownCode);
    const settles = [...this.waiting.values()];
    this.waiting.clear();
    const tooBig = nextAfter(code) === "too_big";
    const error = tooBig
      ? new Refused({ code: "too_large", title: "Too large", status: 413, detail: "This is too large to send." })
      : new Unreachable("The connection was lost.");
    for (const settle of settles) settle({ error });
  }

  private waitAndRetry(ms: number, calm = false): void {
    if (this.link.phase === "stopped") return;
    this.set({ phase: "waiting", retryAt: this.ports.now() + ms, calm });
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
