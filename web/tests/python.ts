/** The server's own session layer, in Python, as a WebSocket of the tests. */

import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { SocketLike } from "../src/client/channel";
import type { SignedKeyList } from "../src/client/keyList";
import { type Bytes, hex, unhex } from "../src/crypto/wire";

const root = fileURLToPath(new URL("../../", import.meta.url));
const PYTHON = process.env.SECURECHAT_PYTHON ?? `${root}.venv/bin/python`;

export interface Answer {
  records: string[];
  messages: string[];
  code?: number;
  epoch: number | null;
  closed: [number, number] | null;
}

/** A server: one process, one identity key. */
export class PythonServer {
  keyId = "";
  /** A list of its keys, signed by a root, and when it began, in seconds since 1970. */
  list: SignedKeyList = { list: "", root_kid: "", root_spki: "", sig: "" };
  now = 0;
  nextId = 1;
  private readonly process: ChildProcess;
  private readonly waiting: ((line: string) => void)[] = [];

  constructor() {
    this.process = spawn(PYTHON, ["-m", "support.session_peer"], {
      env: { ...process.env, PYTHONPATH: `${root}src:${root}tests` },
      stdio: ["pipe", "pipe", "inherit"],
    });
    if (this.process.stdout) {
      createInterface({ input: this.process.stdout }).on("line", (line) => this.waiting.shift()?.(line));
    }
  }

  async start(): Promise<this> {
    const told = JSON.parse(await this.line()) as { key_id: string; now: number; list: SignedKeyList };
    this.keyId = told.key_id;
    this.list = told.list;
    this.now = told.now;
    return this;
  }

  stop(): void {
    this.process.kill();
  }

  async ask(on: number, what: object): Promise<Answer> {
    this.process.stdin?.write(`${JSON.stringify({ on, ...what })}\n`);
    return JSON.parse(await this.line()) as Answer;
  }

  private line(): Promise<string> {
    return new Promise((done) => this.waiting.push(done));
  }
}

export class PythonSocket implements SocketLike {
  readyState = 0;
  binaryType = "blob";
  onopen: SocketLike["onopen"] = null;
  onmessage: SocketLike["onmessage"] = null;
  onclose: SocketLike["onclose"] = null;
  onerror: SocketLike["onerror"] = null;
  /** How many WebSocket messages the client sent. */
  sent = 0;
  readonly heard: string[] = [];
  closedWith: number | undefined;
  last: Answer | null = null;
  private readonly id: number;
  /** Changes what the client gets, as somebody in between would. */
  tamper: (record: Bytes) => Bytes = (record) => record;

  constructor(
    private readonly server: PythonServer,
    readonly protocol = "securechat.v1",
  ) {
    this.id = server.nextId;
    server.nextId += 1;
    setTimeout(() => {
      this.readyState = 1;
      this.onopen?.({} as never);
    });
  }

  send(data: string | Bytes): void {
    if (this.readyState !== 1) return;
    this.sent += 1;
    if (typeof data === "string") throw new Error("text on a sealed connection");
    void this.ask({ take: hex(data) });
  }

  async ask(what: object): Promise<Answer> {
    const answer = await this.server.ask(this.id, what);
    this.last = answer;
    this.heard.push(...answer.messages.map((message) => Buffer.from(message, "hex").toString()));
    for (const record of answer.records) this.onmessage?.({ data: this.tamper(unhex(record)).buffer });
    return answer;
  }

  say(...texts: string[]): Promise<Answer> {
    return this.ask({ send: texts.map((text) => Buffer.from(text).toString("hex")) });
  }

  close(code?: number): void {
    this.readyState = 3;
    this.closedWith = code;
  }

  /** The network ends it. */
  drop(code = 1006): void {
    this.readyState = 3;
    this.onclose?.({ code });
  }
}
