// @vitest-environment node
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { Channel, type End, type Seal } from "../src/client/channel";
import { checkKeyList, type SignedKeyList } from "../src/client/keyList";
import { KnownServer, pinsOf } from "../src/client/knownServer";
import { PythonServer, PythonSocket } from "./python";

let python: PythonServer;
let socket: PythonSocket;
let offered: string[];
let seals: Seal[];
let texts: string[];
let ends: End[];
let kept: Map<string, unknown>;
let server: KnownServer;
let protocol: string;
let storage: ConstructorParameters<typeof KnownServer>[0];
let list: SignedKeyList | null;
let fetched: number;

const until = (check: () => unknown) => vi.waitFor(() => expect(check()).toBeTruthy(), { timeout: 5_000, interval: 2 });

function open(): Promise<Channel> {
  seals = [];
  texts = [];
  ends = [];
  const ports = {
    open: (_url: string, protocols: string[]) => {
      offered = protocols;
      socket = new PythonSocket(python, protocol);
      return socket;
    },
    url: "wss://chat.example.org/gateway",
    server,
    now: Date.now,
  };
  return Channel.open(ports, {
    opened: (seal) => seals.push(seal),
    text: (text) => texts.push(text),
    rekeyed: (seal) => seals.push(seal),
    ended: (end) => ends.push(end),
  });
}

async function opened(): Promise<Channel> {
  const channel = await open();
  await until(() => seals.length || ends.length);
  return channel;
}

beforeAll(async () => {
  python = await new PythonServer().start();
});

afterAll(() => python.stop());

beforeEach(() => {
  kept = new Map();
  protocol = "securechat.v1";
  storage = {
    demand: async (_store: string, key: string) => kept.get(key) as never,
    put: async (_store: string, key: string, value: unknown) => {
      kept.set(key, value);
    },
  };
  list = null;
  fetched = 0;
  const fetchList = async () => {
    fetched += 1;
    if (!list) throw new Error("none");
    return list;
  };
  server = new KnownServer(storage, "chat.example.org", () => python.now * 1_000, fetchList);
});

describe("a sealed channel to the server's own session layer", () => {
  it("opens, and keeps the first key before anything is sent", async () => {
    const channel = await opened();
    expect(offered).toEqual(["securechat.v1", "securechat.v1.clear"]);
    expect(seals).toMatchObject([{ sealed: { keyId: python.keyId, isFirst: true, epoch: 0, suite: 2 } }]);
    expect(await server.load()).toEqual({
      keys: [python.keyId],
      since: python.now * 1_000,
      how: "first",
      wasSealed: true,
    });
    channel.send("[1]", 1);
    await until(() => socket.heard.length);
    await socket.say("[2]", "[3 \u{1f44b}]");
    await until(() => texts.length === 2);
    expect(socket.heard).toEqual(["[1]"]);
    expect(texts).toEqual(["[2]", "[3 \u{1f44b}]"]);
    await opened();
    expect(seals).toMatchObject([{ sealed: { isFirst: false } }]);
  });

  it("puts the texts of one turn into one record, and more than fit into several", async () => {
    const channel = await opened();
    const before = socket.sent;
    for (let count = 0; count < 256; count += 1) channel.send(`[${count}]`, 1);
    await until(() => socket.heard.length === 256);
    expect(socket.sent - before).toBe(1);
    for (let count = 0; count < 5; count += 1) channel.send(`["${String(count).repeat(30_000)}"]`, 1);
    await until(() => socket.heard.length === 261);
    expect(socket.sent - before).toBe(4);
    expect(socket.heard.slice(256).map((text) => text[2])).toEqual(["0", "1", "2", "3", "4"]);
    for (let count = 0; count < 3; count += 1) channel.send("[1]", 120);
    await until(() => socket.heard.length === 264);
    expect(socket.sent - before).toBe(6);
  });

  it("reads a page of a megabyte", async () => {
    await opened();
    await socket.say("x".repeat(1_500_000));
    await until(() => texts.length);
    expect(texts[0]).toHaveLength(1_500_000);
  });

  it("changes keys while both sides talk, and loses nothing", async () => {
    const channel = await opened();
    const mine: string[] = [];
    const theirs: string[] = [];
    for (let round = 0; round < 5; round += 1) {
      const all: Promise<unknown>[] = [];
      for (let count = 0; count < 20; count += 1) {
        const text = `[${round},${count}]`;
        mine.push(text);
        theirs.push(text);
        channel.send(text, 1);
        all.push(socket.say(text));
        if (count === 10) all.push(socket.ask({ rekey: 1 }));
        await Promise.resolve();
      }
      await Promise.all(all);
      await until(() => seals.length === round + 2);
    }
    await until(() => socket.heard.length === mine.length && texts.length === theirs.length);
    expect(socket.heard).toEqual(mine);
    expect(texts).toEqual(theirs);
    expect(seals.at(-1)).toMatchObject({ sealed: { epoch: 5 } });
    expect(socket.last?.epoch).toBe(5);
    expect(ends).toEqual([]);
  });

  it("believes a close that is sealed, and answers it", async () => {
    await opened();
    await socket.ask({ close: [4000, 1_500] });
    await until(() => ends.length);
    expect(ends).toEqual([{ kind: "closed", code: 4000, afterMs: 1_500 }]);
    await until(() => socket.last?.closed);
    expect(socket.last?.closed).toEqual([4000, 0]);
    await until(() => socket.closedWith === 4000);
  });

  it("says goodbye in a sealed record", async () => {
    const channel = await opened();
    channel.close();
    await until(() => socket.last?.closed);
    expect(socket.last?.closed).toEqual([1000, 0]);
    expect(ends).toEqual([]);
  });

  it.each([1000, 1006, 4401, 4409, 4400])("takes a mere WebSocket end with %i for a lost network", async (code) => {
    await opened();
    socket.drop(code);
    await until(() => ends.length);
    expect(ends).toEqual([{ kind: "lost" }]);
  });

  it("hears a sealed close that came just before the WebSocket ended", async () => {
    await opened();
    await socket.ask({ close: [4409, 0] });
    socket.drop(1006);
    await until(() => ends.length);
    expect(ends).toEqual([{ kind: "closed", code: 4409, afterMs: 0 }]);
  });

  it("takes an end before the handshake is through for a hint", async () => {
    await open();
    socket.onmessage = () => undefined; // The server's answer never arrives.
    await new Promise((done) => setTimeout(done));
    socket.drop(4401);
    await until(() => ends.length);
    expect(ends).toEqual([{ kind: "hint", code: 4401 }]);
  });

  it("ends with 4400 when somebody in between changes a record", async () => {
    await opened();
    socket.tamper = (record) => {
      record[40] = (record[40] ?? 0) ^ 1;
      return record;
    };
    await socket.say("[1]");
    await until(() => ends.length);
    expect(ends).toEqual([{ kind: "refused", code: 4400 }]);
    expect(texts).toEqual([]);
    await until(() => socket.last?.closed);
    expect(socket.last?.closed).toEqual([4400, 0]);
  });

  it("refuses text, and what is no UTF-8", async () => {
    await opened();
    socket.onmessage?.({ data: "[]" });
    await until(() => ends.length);
    expect(ends).toEqual([{ kind: "refused", code: 4400 }]);
    await until(() => socket.last?.closed);
    await opened();
    await socket.ask({ send: ["ff"] });
    await until(() => ends.length);
    expect(ends).toEqual([{ kind: "refused", code: 4400 }]);
  });

  it("sends nothing to a server with another key, and forgets nothing", async () => {
    const known = { keys: ["11".repeat(32)], since: 5, how: "first", wasSealed: true };
    kept.set("server-key:chat.example.org", known);
    await opened();
    expect(ends).toEqual([{ kind: "unknown_key", presented: python.keyId, known }]);
    expect(seals).toEqual([]);
    expect(socket.sent).toBe(1);
    expect(await server.load()).toEqual(known);
    await server.accept(python.keyId);
    await opened();
    expect(seals).toMatchObject([{ sealed: { keyId: python.keyId, known: { how: "accepted" } } }]);
  });

  it("sends nothing to a server that it met sealed and that does not seal any more", async () => {
    await opened();
    protocol = "securechat.v1.clear";
    const channel = await opened();
    expect(ends).toMatchObject([{ kind: "downgraded" }]);
    channel.send("[1]", 1);
    await new Promise((done) => setTimeout(done, 20));
    expect(socket.sent).toBe(0);
  });

  it("takes no clear connection when a link named the key", async () => {
    await server.suggest([python.keyId]);
    protocol = "securechat.v1.clear";
    await opened();
    expect(ends).toMatchObject([{ kind: "downgraded" }]);
    protocol = "securechat.v1";
    await opened();
    expect(seals).toMatchObject([{ sealed: { isFirst: false, known: { how: "link" } } }]);
  });

  it("is in the clear, and says why, where the page or the server cannot seal", async () => {
    protocol = "securechat.v1.clear";
    await opened();
    expect(seals).toEqual([{ clear: "not_offered" }]);
    vi.stubGlobal("crypto", {});
    await opened();
    vi.unstubAllGlobals();
    expect(seals).toEqual([{ clear: "insecure_page" }]);
    expect(offered).toEqual(["securechat.v1.clear"]);
  });

  it("does not forget on an insecure page that it was sealed before", async () => {
    await opened();
    protocol = "securechat.v1.clear";
    vi.stubGlobal("crypto", {});
    await opened();
    vi.unstubAllGlobals();
    expect(ends).toMatchObject([{ kind: "downgraded" }]);
  });

  it("refuses a sub-protocol that it did not offer", async () => {
    protocol = "";
    await opened();
    expect(ends).toEqual([{ kind: "refused", code: 4406 }]);
  });

  it("is not opened when what is known cannot be read", async () => {
    const broken = { demand: () => Promise.reject(new Error("disk")), put: async () => {} };
    server = new KnownServer(broken, "chat.example.org");
    await expect(open()).rejects.toThrow("disk");
  });
});

describe("a list of keys that a root signed", () => {
  it("names a new key, when its root was named inside the first session", async () => {
    list = python.list;
    await opened();
    await server.keepRoot(python.keyId, list.root_kid);
    const known = await server.load();
    expect(known).toMatchObject({ keys: [python.keyId], root: list.root_kid });

    kept.set("server-key:chat.example.org", { ...known, keys: ["33".repeat(32)] });
    await opened();
    expect(ends).toEqual([{ kind: "lost" }]);
    expect(await server.load()).toMatchObject({ keys: [python.keyId, "22".repeat(32)], list: list.list });
    await opened();
    expect(seals).toMatchObject([{ sealed: { keyId: python.keyId, isFirst: false } }]);
  });

  it("is not asked for before: anybody in between could answer", async () => {
    list = python.list;
    await opened();
    await opened();
    expect(fetched).toBe(0);
    expect(await server.load()).toMatchObject({ keys: [python.keyId] });
  });

  it("has no root when the key was known beforehand, or another contact was first", async () => {
    const root = "44".repeat(32);
    await server.suggest([python.keyId]);
    await opened();
    await server.keepRoot(python.keyId, root);
    expect(await server.load()).not.toHaveProperty("root");

    await server.accept(python.keyId);
    await server.keepRoot(python.keyId, root);
    expect(await server.load()).not.toHaveProperty("root");

    kept.clear();
    await opened();
    await server.keepRoot("33".repeat(32), root);
    await server.keepRoot(python.keyId, "4".repeat(63));
    expect(await server.load()).not.toHaveProperty("root");
    await server.keepRoot(python.keyId, root);
    await server.keepRoot(python.keyId, "55".repeat(32));
    expect(await server.load()).toMatchObject({ root });
  });

  it("does not help when it is another root's, or there is none", async () => {
    const known = { keys: ["33".repeat(32)], since: 5, how: "first", wasSealed: true, root: "44".repeat(32) };
    kept.set("server-key:chat.example.org", known);
    for (list of [python.list, null]) {
      await opened();
      expect(ends).toEqual([{ kind: "unknown_key", presented: python.keyId, known }]);
    }
    expect(await server.load()).toEqual(known);
  });

  it("is checked: root, signature, host, number, dates", async () => {
    const signed = python.list;
    const want = { host: "chat.example.org", root: signed.root_kid, nowMs: python.now * 1_000, last: "" };
    expect(await checkKeyList(signed, want)).toEqual([python.keyId, "22".repeat(32)]);
    expect(await checkKeyList(signed, { ...want, last: signed.list })).toHaveLength(2);
    const encode = (content: object) => Buffer.from(JSON.stringify(content)).toString("base64url");
    const content = JSON.parse(Buffer.from(signed.list, "base64url").toString()) as { serial: number };
    const refused = (changed: Partial<SignedKeyList>, otherwise: Partial<typeof want> = {}) =>
      expect(checkKeyList({ ...signed, ...changed }, { ...want, ...otherwise })).rejects;
    await refused({}, { root: "11".repeat(32) }).toThrow("another root");
    await refused({ list: encode({ ...content, serial: 8 }) }).toThrow("signature");
    await refused({ sig: signed.list }).toThrow("signature");
    await refused({}, { host: "evil.example" }).toThrow("another host");
    await refused({}, { last: encode({ ...content, serial: 7.5 }) }).toThrow("not a key list");
    await refused({}, { last: encode({ ...content, serial: 8 }) }).toThrow("not newer");
    await refused({}, { nowMs: (python.now + 46 * 86_400) * 1_000 }).toThrow("this time");
    await refused({}, { nowMs: (python.now - 2 * 86_400) * 1_000 }).toThrow("this time");
    await refused({ list: "" }).toThrow("base64url");
  });
});

describe("the keys of a link", () => {
  const pin = "ab".repeat(32);

  it("are read from its fragment", () => {
    expect(pinsOf(`#t=abc&pin=${pin.toUpperCase()}&pin=${"cd".repeat(32)}&pin=${pin}`)).toEqual([pin, "cd".repeat(32)]);
    expect(pinsOf("#pin=abc&pin=")).toEqual([]);
    expect(pinsOf("")).toEqual([]);
  });

  it("are forgotten when a server is set up anew, and only on this machine", async () => {
    for (const [host, isForgotten] of [
      ["localhost:8080", true],
      ["127.0.0.1", true],
      ["[::1]:8080", true],
      ["chat.example.org", false],
      ["localhost.example.org", false],
    ] as const) {
      const one = new KnownServer(storage, host);
      await one.meet(pin);
      await one.setUp();
      expect((await one.load()).keys, host).toEqual(isForgotten ? [] : [pin]);
    }
  });

  it("never replace a known key", async () => {
    await server.meet("11".repeat(32));
    await server.suggest([pin]);
    expect((await server.load()).keys).toEqual(["11".repeat(32)]);
  });
});
