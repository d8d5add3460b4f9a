import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { backoffMs } from "../src/client/backoff";
import { Connection, type Link, type Listener } from "../src/client/connection";
import { KnownServer } from "../src/client/knownServer";
import { Refused, SignedOut, Unreachable } from "../src/client/problem";
import { FakeServer, FakeSocket } from "./fakeServer";

let server: FakeServer;
const kept = new Map<string, unknown>();
const known = new KnownServer(
  {
    demand: async (_store, key) => kept.get(key) as never,
    put: async (_store, key, value) => {
      kept.set(key, value);
    },
  },
  "here",
);
let links: Link[];
let tokens: boolean[];
let urls: string[];
let signals: unknown[];
let tokenOf: () => Promise<string>;

function connect(): Connection {
  const listener: Listener = {
    link: (link) => links.push(link),
    sealed: () => {},
    hello: () => {},
    ready: () => {},
    entry: () => {},
    signal: (frame) => signals.push(frame),
  };
  const ports = {
    open: (url: string, protocols: string[]) => {
      urls.push(`${url} ${protocols}`);
      return new FakeSocket(server);
    },
    url: "wss://here/gateway",
    server: known,
    token: (fresh: boolean) => {
      tokens.push(fresh);
      return tokenOf();
    },
    held: () => ({}),
    random: () => 0.5,
    now: Date.now,
  };
  const connection = new Connection(ports, listener);
  connection.start();
  return connection;
}

const phases = () => links.map((link) => link.phase);
const sleep = (ms: number) => vi.advanceTimersByTimeAsync(ms);

beforeEach(() => {
  vi.useFakeTimers();
  server = new FakeServer();
  server.user("usr_a", "A");
  server.room("room", ["usr_a"]);
  links = [];
  tokens = [];
  urls = [];
  signals = [];
  kept.clear();
  tokenOf = async () => "usr_a/dev_1";
});

afterEach(() => {
  vi.useRealTimers();
});

describe("a connection", () => {
  it("opens, authenticates and answers calls", async () => {
    const connection = connect();
    await sleep(20);
    expect(connection.isOnline).toBe(true);
    expect(urls).toEqual(["wss://here/gateway securechat.v1,securechat.v1.clear"]);
    const reply = connection.call("command.list", { room: "rm_0001" });
    await sleep(20);
    await expect(reply).resolves.toEqual({ commands: [] });
  });

  it("puts frames of one moment into one message", async () => {
    const connection = connect();
    await sleep(20);
    const send = vi.spyOn(FakeSocket.prototype, "send");
    for (let count = 0; count < 5; count += 1) connection.command("typing.start", { room: "rm_0001" }, () => {});
    await sleep(20);
    expect(send).toHaveBeenCalledTimes(1);
    send.mockRestore();
  });

  it("tells refusals apart from lost connections", async () => {
    const connection = connect();
    await sleep(20);
    const refused = connection.call("fetch", { room: "rm_9999" }).catch((error: unknown) => error);
    await sleep(20);
    expect(await refused).toBeInstanceOf(Refused);
    const lost = connection.call("fetch", { room: "rm_0001" }).catch((error: unknown) => error);
    server.dropAll();
    await sleep(20);
    expect(await lost).toBeInstanceOf(Unreachable);
  });

  it("comes back after waits that grow", async () => {
    const connection = connect();
    await sleep(20);
    server.isUp = false;
    server.dropAll();
    await sleep(120_000);
    const waits = links.filter((link) => link.phase === "waiting");
    expect(waits.length).toBeGreaterThan(4);
    server.isUp = true;
    connection.retryNow();
    await sleep(20);
    expect(connection.isOnline).toBe(true);
  });

  it.each([1001, 1006, 1011, 1013, 4008, 4429])("reconnects after %i", async (code) => {
    const connection = connect();
    await sleep(20);
    server.dropAll(code);
    await sleep(2_000);
    expect(connection.isOnline).toBe(true);
    expect(tokens).toEqual([false, false]);
  });

  it("waits as long as a drain says, and calls it calm", async () => {
    const connection = connect();
    await sleep(20);
    for (const sink of server.sinks) sink.push([{ op: "drain", after_ms: 5_000 }]);
    await sleep(20);
    server.dropAll(4000);
    await sleep(20);
    expect(connection.link).toMatchObject({ phase: "waiting", calm: true });
    await sleep(4_000);
    expect(connection.isOnline).toBe(false);
    await sleep(2_000);
    expect(connection.isOnline).toBe(true);
  });

  it("heeds a drain also when the server is gone before it said goodbye", async () => {
    const connection = connect();
    await sleep(20);
    for (const sink of server.sinks) sink.push([{ op: "drain", after_ms: 5_000, within_ms: 10_000 }]);
    await sleep(20);
    expect(connection.isOnline).toBe(true);
    server.dropAll(1006);
    await sleep(20);
    expect(connection.link).toMatchObject({ phase: "waiting", calm: true });
    await sleep(4_000);
    expect(connection.isOnline).toBe(false);
    await sleep(2_000);
    expect(connection.isOnline).toBe(true);
  });

  it("gets a fresh token after 4401, and stops when there is none", async () => {
    const connection = connect();
    await sleep(20);
    server.dropAll(4401);
    await sleep(50);
    expect(connection.isOnline).toBe(true);
    expect(tokens).toEqual([false, true]);
    tokenOf = async () => {
      throw new SignedOut();
    };
    server.dropAll(4401);
    await sleep(50);
    expect(links.at(-1)).toEqual({ phase: "stopped", reason: "signed_out" });
  });

  it("does not hammer a server that refuses every token", async () => {
    tokenOf = async () => "nobody/dev";
    connect();
    await sleep(10_000);
    expect(urls.length).toBeLessThan(9);
  });

  it("stops after 4409, and after 4400 twice in a minute", async () => {
    connect();
    await sleep(20);
    server.dropAll(4409);
    await sleep(5_000);
    expect(links.at(-1)).toEqual({ phase: "stopped", reason: "replaced" });
    links = [];
    connect();
    await sleep(20);
    server.dropAll(4400);
    await sleep(5_000);
    expect(phases()).toContain("online");
    server.dropAll(4400);
    await sleep(5_000);
    expect(links.at(-1)).toEqual({ phase: "stopped", reason: "protocol" });
  });

  it("does not send again what was too big", async () => {
    const connection = connect();
    await sleep(20);
    const big = connection.call("room.get", { room: "rm_0001" }).catch((error: unknown) => error);
    server.dropAll(1009);
    await sleep(20);
    expect(await big).toMatchObject({ problem: { code: "too_large", status: 413 } });
  });

  it("notices a server that does not answer any more", async () => {
    const connection = connect();
    await sleep(20);
    const frame = vi.spyOn(server as unknown as { frame: () => void }, "frame").mockImplementation(() => {});
    await sleep(20_000);
    expect(connection.isOnline).toBe(true);
    await sleep(10_050);
    expect(connection.isOnline).toBe(false);
    frame.mockRestore();
    await sleep(3_000);
    expect(connection.isOnline).toBe(true);
  });

  it("pings while it is idle, and extends its token in time", async () => {
    connect();
    await sleep(130_000);
    const pings = server.received.filter((frame) => frame.op === "ping");
    expect(pings.length).toBeGreaterThan(4);
    await sleep(400_000);
    const auths = server.received.filter((frame) => frame.op === "auth");
    expect(auths).toHaveLength(2);
    expect(tokens).toEqual([false, true]);
  });

  it("brings a fresh token at once when the server says that the old one ends", async () => {
    connect();
    await sleep(10);
    server.signal("usr_a", { type: "auth.expiring", expires_in: 60 });
    await sleep(10);
    expect(server.received.filter((frame) => frame.op === "auth")).toHaveLength(2);
    expect(tokens).toEqual([false, true]);
    expect(signals).toEqual([]);
  });
});

describe("the waits", () => {
  it("have full jitter below a minute", () => {
    expect(backoffMs(0, () => 1)).toBe(1_000);
    expect(backoffMs(3, () => 1)).toBe(8_000);
    expect(backoffMs(99, () => 1)).toBe(60_000);
    expect(backoffMs(5, () => 0)).toBe(0);
  });
});
