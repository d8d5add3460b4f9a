import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { ChannelListener, End, Seal } from "../src/client/channel";
import { Connection, type Link } from "../src/client/connection";

/** The channel of the newest connection, moved by the tests. */
let listener: ChannelListener;
let sent: string[];
let closedWith: (number | undefined)[];
let opened: number;

vi.mock("../src/client/channel", () => ({
  Channel: {
    open: async (_ports: unknown, heard: ChannelListener) => {
      listener = heard;
      opened += 1;
      return { send: (text: string) => sent.push(text), close: (code?: number) => closedWith.push(code) };
    },
  },
}));

const known = { keys: ["11".repeat(32)], since: 5, how: "first", wasSealed: true } as const;
const seal = {
  sealed: { suite: 2, keyId: "11".repeat(32), known, isFirst: false, since: 0, epoch: 0, epochSince: 0 },
};
const sleep = (ms: number) => vi.advanceTimersByTimeAsync(ms);
let links: Link[];
let tokens: boolean[];
let roots: string[][];

async function connect(): Promise<Connection> {
  const ports = {
    open: () => {
      throw new Error("not here");
    },
    url: "wss://here/gateway",
    server: { keepRoot: async (...kept: string[]) => void roots.push(kept) } as never,
    token: async (fresh: boolean) => {
      tokens.push(fresh);
      return "token";
    },
    held: () => ({ rm_1: 7 }),
    random: () => 0.5,
    now: Date.now,
  };
  const ignore = () => {};
  const connection = new Connection(ports, {
    link: (link) => links.push(link),
    sealed: ignore,
    hello: ignore,
    ready: ignore,
    entry: ignore,
    signal: ignore,
  });
  connection.start();
  await sleep(1);
  return connection;
}

async function online(): Promise<Connection> {
  const connection = await connect();
  listener.opened(seal);
  listener.text('[{"op":"ready","user":{},"device":"d","rooms":[],"resumed":true}]');
  return connection;
}

async function end(how: End): Promise<void> {
  listener.ended(how);
  await sleep(1);
}

beforeEach(() => {
  vi.useFakeTimers();
  sent = [];
  closedWith = [];
  links = [];
  tokens = [];
  roots = [];
  opened = 0;
});

afterEach(() => {
  vi.useRealTimers();
});

describe("a sealed connection", () => {
  it("authenticates without waiting for the greeting, once", async () => {
    await connect();
    listener.opened(seal);
    listener.text('[{"op":"hello","protocol":1,"server":"s","version":"1","limits":{}}]');
    await sleep(1);
    expect(sent.map((text) => JSON.parse(text))).toEqual([
      [{ op: "auth", id: "1", token: "token", resume: { rm_1: 7 } }],
    ]);
  });

  it("keeps the root that the greeting names at the first contact, and only then", async () => {
    const first: Seal = { sealed: { ...seal.sealed, isFirst: true } };
    for (const [how, root] of [
      [first, "aa"],
      [seal, "bb"],
      [{ clear: "not_offered" }, "cc"],
      [first, ""],
    ] as const) {
      const connection = await connect();
      listener.opened(how);
      listener.text(JSON.stringify([{ op: "hello", protocol: 1, server: "s", version: "1", limits: {}, root }]));
      connection.stop();
    }
    expect(roots).toEqual([[seal.sealed.keyId, "aa"]]);
  });

  it("authenticates after the greeting when it is in the clear", async () => {
    await connect();
    listener.opened({ clear: "not_offered" });
    await sleep(1);
    expect(sent).toEqual([]);
    listener.text('[{"op":"hello","protocol":1,"server":"s","version":"1","limits":{}}]');
    await sleep(1);
    expect(sent).toHaveLength(1);
  });

  it("stops at another key and at a downgrade, without trying again", async () => {
    const connection = await connect();
    await end({ kind: "unknown_key", presented: "22".repeat(32), known });
    expect(links.at(-1)).toEqual({ phase: "stopped", reason: "unknown_key", presented: "22".repeat(32), known });
    await sleep(300_000);
    connection.retryNow();
    connection.check();
    expect(opened).toBe(1);
    connection.restart();
    await sleep(1);
    await end({ kind: "downgraded", known });
    expect(links.at(-1)).toEqual({ phase: "stopped", reason: "downgraded", known });
    await sleep(300_000);
    expect(opened).toBe(2);
    expect(sent).toEqual([]);
  });

  it.each([
    [4404, "wrong_host"],
    [4406, "update_needed"],
    [4409, "replaced"],
  ] as const)("stops after %i", async (code, reason) => {
    await online();
    await end({ kind: "closed", code, afterMs: 0 });
    expect(links.at(-1)).toEqual({ phase: "stopped", reason });
  });

  it("makes a new handshake after 4403", async () => {
    await online();
    await end({ kind: "refused", code: 4403 });
    await sleep(1_000);
    expect(opened).toBe(2);
    expect(closedWith).toEqual([4403]);
  });

  it("makes a new handshake after 4400 once, and warns at the second time within a minute", async () => {
    await online();
    await end({ kind: "refused", code: 4400 });
    await sleep(1_000);
    expect(opened).toBe(2);
    await end({ kind: "refused", code: 4400 });
    expect(links.at(-1)).toEqual({ phase: "stopped", reason: "protocol" });
  });

  it("waits as long as a sealed close says", async () => {
    await online();
    await end({ kind: "closed", code: 4429, afterMs: 20_000 });
    expect(links.at(-1)).toMatchObject({ phase: "waiting", retryAt: Date.now() - 1 + 20_500 });
    await sleep(19_000);
    expect(opened).toBe(1);
    await sleep(2_000);
    expect(opened).toBe(2);
    await end({ kind: "closed", code: 4000, afterMs: 3_000 });
    expect(links.at(-1)).toMatchObject({ phase: "waiting", calm: true });
  });

  it.each([4400, 4401, 4403, 4404, 4406, 4409])(
    "takes %i that nobody proved for a hint: later, with the same token",
    async (code) => {
      await connect();
      await end({ kind: "hint", code });
      expect(links.at(-1)).toMatchObject({ phase: "waiting" });
      await sleep(59_000);
      expect(opened).toBe(1);
      await sleep(3_000);
      expect(opened).toBe(2);
      expect(tokens).toEqual([false, false]);
    },
  );

  it.each([1006, 1001, 1013])("tries again soon when the handshake was cut with %i", async (code) => {
    await connect();
    await end({ kind: "hint", code });
    await sleep(1_000);
    expect(opened).toBe(2);
  });

  it("hears nothing of a channel that it gave up", async () => {
    const connection = await connect();
    const old = listener;
    await end({ kind: "lost" });
    await sleep(1_000);
    old.opened(seal);
    old.text("nonsense");
    await sleep(1);
    expect(sent).toEqual([]);
    expect(connection.link.phase).toBe("connecting");
    expect(opened).toBe(2);
  });
});
