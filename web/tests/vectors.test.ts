// @vitest-environment node
import { readFileSync } from "node:fs";
import { afterEach, describe, expect, it, vi } from "vitest";
import { HANDSHAKE, REKEY, verify } from "../src/crypto/identity";
import { EphemeralKey, Suite } from "../src/crypto/keyExchange";
import { type DirectionKeys, type EpochKeys, KeySchedule } from "../src/crypto/keySchedule";
import { Content, Direction, padded, RecordOpener, RecordSealer } from "../src/crypto/record";
import { type Bytes, bytes, concat, hex, PROTOCOL, Reader, SessionRefused, u32, unhex, utf8 } from "../src/crypto/wire";
import { ClientHandshake, type Proved, UnknownKey } from "../src/protocol/handshake";
import { ReplayDetector } from "../src/protocol/replayDetector";
import { ClientSession, pack, unpack } from "../src/protocol/session";

interface Step {
  at_ms: number;
  by: "client" | "server";
  kind: "application" | "rekey" | "reply" | "done" | "close";
  messages?: string[];
  code?: number;
  after_ms?: number;
  records: string[];
}

interface Case {
  name: string;
  host: string;
  suites: Suite[];
  encoding: "json" | "msgpack";
  pinned: boolean;
  identity: { spki: string; key_id: string };
  client: { randoms: string[]; ephemerals: string[] };
  handshake: [string, string, string, string, string];
  epochs: Record<string, string>[];
  steps: Step[];
}

interface Refusal {
  attack: number;
  name: string;
  side: "client" | "server";
  case: string;
  code: number;
  after_ms: number;
  precede: string[];
  refused: string;
}

const file = new URL("../../spec/vectors/session-layer.json", import.meta.url);
const vectors = JSON.parse(readFileSync(file, "utf8")) as {
  wall_ms: number;
  client_monotonic_s: number;
  cases: Case[];
  refusals: Refusal[];
};

/** Finding primes takes as long as it takes. */
const RSA_MS = 30_000;

const PKCS8 = {
  [Suite.P256]: "3041020100301306072a8648ce3d020106082a8648ce3d030107042730250201010420",
  [Suite.X25519]: "302e020100300506032b656e04220420",
};

async function ephemeralOf(suite: Suite, scalar: string): Promise<EphemeralKey> {
  const algorithm = suite === Suite.P256 ? { name: "ECDH", namedCurve: "P-256" } : { name: "X25519" };
  const secret = await crypto.subtle.importKey("pkcs8", unhex(PKCS8[suite] + scalar), algorithm, true, ["deriveBits"]);
  const { x = "", y = "" } = await crypto.subtle.exportKey("jwk", secret);
  const form = suite === Suite.P256 ? [4] : [];
  const share = [...form, ...Buffer.from(x, "base64url"), ...Buffer.from(y, "base64url")];
  return new EphemeralKey(suite, bytes(...share), secret);
}

/** A client with the randomness of a case and a clock that the test moves. */
class Player {
  nowMs = vectors.client_monotonic_s * 1_000;
  readonly sent: string[] = [];
  readonly keys: EpochKeys[] = [];
  session: ClientSession | null = null;
  proved: Proved | null = null;
  private handshake: ClientHandshake | null = null;

  constructor(readonly played: Case) {}

  async begin(): Promise<string> {
    const { played } = this;
    const randoms = played.client.randoms.map(unhex);
    const ephemerals = [...played.client.ephemerals];
    this.handshake = await ClientHandshake.begin({
      host: played.host,
      pins: played.pinned ? [unhex(played.identity.key_id)] : [],
      encoding: played.encoding,
      offered: ["securechat.v1", "securechat.v1.clear"],
      suites: played.suites,
      clock: { monotonicMs: () => this.nowMs, wallMs: () => vectors.wall_ms + this.nowMs },
      ephemeral: (suite) => ephemeralOf(suite, ephemerals.shift() as string),
      random: (size) => {
        const found = randoms.shift() as Bytes;
        expect(found).toHaveLength(size);
        return found;
      },
    });
    return hex(this.handshake.clientHello);
  }

  async take(message: string): Promise<string[]> {
    if (this.session) return (await this.session.open(unhex(message))).map(hex);
    this.proved = (await this.handshake?.take(unhex(message))) ?? null;
    if (this.proved) {
      this.session = new ClientSession(this.proved.established, (record) => this.sent.push(hex(record)));
    }
    return [];
  }
}

afterEach(() => {
  vi.restoreAllMocks();
});

async function sameKeys(made: EpochKeys, told: Record<string, string>): Promise<void> {
  expect(hex(made.transcript)).toBe(told.transcript);
  expect(hex(made.exporter)).toBe(told.exporter);
  expect(hex(made.chain)).toBe(told.chain);
  for (const [direction, name] of [
    [made.client, "c2s"],
    [made.server, "s2c"],
  ] as const) {
    expect(hex(direction.iv)).toBe(told[`${name}_iv`]);
    expect(direction.key.extractable).toBe(false);
    expect(direction.mac.extractable).toBe(false);
    const theirs = await directionKeys(told, name);
    const iv = new Uint8Array(12);
    const [one, other] = await Promise.all(
      [direction, theirs].map(({ key }) => crypto.subtle.encrypt({ name: "AES-GCM", iv }, key, iv)),
    );
    expect(one).toEqual(other);
    const [tag, otherTag] = await Promise.all(
      [direction, theirs].map(({ mac }) => crypto.subtle.sign("HMAC", mac, iv)),
    );
    expect(tag).toEqual(otherTag);
  }
}

async function directionKeys(told: Record<string, string>, name: "c2s" | "s2c"): Promise<DirectionKeys> {
  const raw = (part: string) => unhex(told[`${name}_${part}`] as string);
  const hmac = { name: "HMAC", hash: "SHA-256" };
  return {
    key: await crypto.subtle.importKey("raw", raw("key"), "AES-GCM", false, ["encrypt", "decrypt"]),
    iv: raw("iv"),
    mac: await crypto.subtle.importKey("raw", raw("mac"), hmac, false, ["sign", "verify"]),
  };
}

describe.each(vectors.cases)("the session $name", (played) => {
  it("is what the browser makes of the same randomness, to the last byte", async () => {
    const advance = vi.spyOn(KeySchedule.prototype, "advance");
    const player = new Player(played);
    const [clientHello, serverHello, serverAuth, serverFin, clientFin] = played.handshake;
    expect(await player.begin()).toBe(clientHello);
    for (const message of [serverHello, serverAuth, serverFin]) await player.take(message);
    const { session, proved } = player;
    if (!session || !proved) throw new Error("no session");
    expect(hex(proved.clientFin)).toBe(clientFin);
    expect(hex(proved.keyId)).toBe(played.identity.key_id);

    const start = player.nowMs;
    let ownRecords = 0;
    for (const step of played.steps) {
      player.nowMs = start + step.at_ms;
      if (step.by === "server") {
        const heard: string[] = [];
        for (const record of step.records) heard.push(...(await player.take(record)));
        expect(heard).toEqual(step.messages ?? []);
        if (step.kind === "close") {
          expect(session.peerClose).toEqual({ code: step.code, afterMs: step.after_ms });
        }
        continue;
      }
      if (step.kind === "application") await session.send(pack((step.messages ?? []).map(unhex)));
      if (step.kind === "close") await session.close(step.code ?? 0, step.after_ms);
      const records = player.sent.slice(ownRecords);
      ownRecords = player.sent.length;
      expect(records).toEqual(step.records);
    }
    expect(session.epoch).toBe(1);
    expect(hex(session.exporter)).toBe(played.epochs[1]?.exporter);
    const made = await Promise.all(advance.mock.results.map(({ value }) => value as Promise<EpochKeys>));
    expect(made).toHaveLength(played.epochs.length);
    for (const [epoch, keys] of made.entries()) await sameKeys(keys, played.epochs[epoch] as Record<string, string>);
  });

  it("has records that the keys alone seal and open, in both directions and epochs", async () => {
    const sessionId = unhex(played.handshake[1]).slice(36, 52);
    const sides = { client: ["c2s", Direction.CLIENT], server: ["s2c", Direction.SERVER] } as const;
    const readers = new Map<string, [RecordOpener, RecordSealer]>();
    let count = 0;
    for (const step of played.steps) {
      for (const record of step.records.map(unhex)) {
        const epoch = new DataView(record.buffer).getUint32(4);
        const [name, direction] = sides[step.by];
        const id = `${name}${epoch}`;
        const keys = await directionKeys(played.epochs[epoch] as Record<string, string>, name);
        const [opener, sealer] = readers.get(id) ?? [
          new RecordOpener(direction, sessionId, epoch, keys),
          new RecordSealer(direction, sessionId, epoch, keys),
        ];
        readers.set(id, [opener, sealer]);
        const { timestampMs } = await opener.authentic(record, 65_536);
        const { kind, content } = await opener.decrypt(record, timestampMs);
        if (step.kind === "application") expect(unpack(content).map(hex)).toEqual(step.messages);
        expect(hex(await sealer.seal(kind as Content, content, timestampMs))).toBe(hex(record));
        count += 1;
      }
    }
    expect(readers.size).toBe(4);
    expect(count).toBeGreaterThan(12);
  });
});

describe("what has to be refused", () => {
  const caseOf = (name: string) => vectors.cases.find((one) => one.name === name) as Case;
  const mine = vectors.refusals.filter(({ side }) => side === "client");
  const theirs = vectors.refusals.filter(({ side }) => side === "server");

  it("is in the file", () => {
    expect(mine.length).toBeGreaterThan(60);
    expect(new Set(mine.map(({ attack }) => attack))).toEqual(new Set([72, 73, 79, 82, 83, 85]));
  });

  it.each(mine.map((one) => [`${one.attack} ${one.name}`, one] as const))("%s", async (_name, refusal) => {
    const player = new Player(caseOf(refusal.case));
    await player.begin();
    for (const message of refusal.precede) {
      player.nowMs += 1;
      await player.take(message);
    }
    player.nowMs += refusal.after_ms;
    const error = await player.take(refusal.refused).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(SessionRefused);
    expect((error as SessionRefused).code).toBe(refusal.code);
    const isUnknown = /unpinned|an RSA key with (1024|the exponent)/.test(refusal.name);
    expect(error instanceof UnknownKey).toBe(isUnknown);
  });

  it.each(theirs.filter(({ attack }) => attack === 81).map((one) => [one.name, one] as const))(
    "as a server's share: %s",
    async (_name, { refused }) => {
      const reader = new Reader(unhex(refused));
      reader.take(2);
      reader.vec16();
      reader.take(32);
      const shares = new Reader(reader.vec16());
      const suite = shares.number(2) as Suite;
      const share = shares.vec16();
      const error = await (await EphemeralKey.generate(suite)).exchange(share).catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ code: PROTOCOL });
    },
  );

  const records = theirs.filter(({ attack, name }) => (attack === 72 || attack === 79) && !/control/.test(name));

  it.each(records.map((one) => [one.name, one] as const))("also from a client: %s", async (_name, refusal) => {
    const played = caseOf(refusal.case);
    const keys = await directionKeys(played.epochs[0] as Record<string, string>, "c2s");
    const opener = new RecordOpener(Direction.CLIENT, unhex(played.handshake[1]).slice(36, 52), 0, keys);
    const detector = new ReplayDetector(0);
    const open = async (data: string): Promise<void> => {
      const record = unhex(data);
      const { epoch, seq, timestampMs } = await opener.authentic(record, 65_536);
      detector.admit(epoch, seq);
      const { kind, content } = await opener.decrypt(record, timestampMs);
      if (kind !== Content.APPLICATION) throw new SessionRefused(PROTOCOL, "content type");
      unpack(content);
    };
    for (const message of refusal.precede.slice(2)) await open(message);
    const error = await open(refusal.refused).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: refusal.code });
  });
});

describe("a rekey", () => {
  it("is not done before the server has proved the new keys", async () => {
    const played = vectors.cases[0] as Case;
    const player = new Player(played);
    await player.begin();
    for (const message of played.handshake.slice(1, 4)) await player.take(message);
    const before = played.steps.slice(
      0,
      played.steps.findIndex(({ kind }) => kind === "reply"),
    );
    const told = before.filter(({ by }) => by === "server").flatMap(({ records }) => records);
    for (const record of told) await player.take(record);
    const keys = await directionKeys(played.epochs[0] as Record<string, string>, "s2c");
    const sealer = new RecordSealer(Direction.SERVER, unhex(played.handshake[1]).slice(36, 52), 0, keys);
    sealer.seq = told.length;
    const done = concat(bytes(0x23), u32(1), new Uint8Array(32));
    const record = await sealer.seal(Content.CONTROL, done, vectors.wall_ms + 200);
    const error = await player.take(hex(record)).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: PROTOCOL, message: "proof of the server" });
  });
});

describe("an identity", () => {
  const digest = new Uint8Array(32);
  const message = concat(new Uint8Array(64).fill(0x20), utf8(HANDSHAKE), bytes(0), digest);

  it.each([
    [2_048, [1, 0, 1], true],
    [3_072, [1, 0, 1], true],
    [1_024, [1, 0, 1], false],
    [2_048, [3], false],
  ])(
    "of %i bits with the exponent %j: %j",
    async (modulusLength, exponent, isTaken) => {
      const algorithm = { name: "RSA-PSS", hash: "SHA-256", modulusLength, publicExponent: bytes(...exponent) };
      const pair = (await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"])) as CryptoKeyPair;
      const spki = new Uint8Array(await crypto.subtle.exportKey("spki", pair.publicKey));
      const signature = await crypto.subtle.sign({ name: "RSA-PSS", saltLength: 32 }, pair.privateKey, message);
      expect(await verify(spki, HANDSHAKE, digest, new Uint8Array(signature))).toBe(isTaken);
      expect(await verify(spki, REKEY, digest, new Uint8Array(signature))).toBe(false);
      expect(await verify(concat(spki, bytes(0)), HANDSHAKE, digest, new Uint8Array(signature))).toBe(false);
    },
    RSA_MS,
  );
});

describe("the detector of replays", () => {
  it("takes each number once, in order, of its own epoch", () => {
    const detector = new ReplayDetector(3);
    detector.admit(3, 0);
    for (const [epoch, seq] of [
      [3, 0],
      [3, 2],
      [2, 1],
      [4, 1],
    ] as const) {
      expect(() => detector.admit(epoch, seq)).toThrow(SessionRefused);
    }
    detector.admit(3, 1);
  });
});

describe("a record", () => {
  it("is padded in steps", () => {
    expect([1, 64, 65, 900, 1_024, 1_025, 65_536].map(padded)).toEqual([64, 64, 128, 1_024, 1_024, 2_048, 65_536]);
  });

  it("keeps the last numbers for rekey and close", async () => {
    const keys = await directionKeys(vectors.cases[0]?.epochs[0] as Record<string, string>, "c2s");
    const sealer = new RecordSealer(Direction.CLIENT, new Uint8Array(16), 0, keys, 20);
    for (let count = 0; count < 4; count += 1) await sealer.seal(Content.APPLICATION, bytes(1), 0);
    await expect(sealer.seal(Content.APPLICATION, bytes(1), 0)).rejects.toThrow();
    await expect(sealer.seal(Content.CONTROL, bytes(1), 0)).resolves.toBeTruthy();
    expect(sealer.seq).toBe(5);
  });

  it("takes its number at once, so that two of one moment never share a nonce", async () => {
    const keys = await directionKeys(vectors.cases[0]?.epochs[0] as Record<string, string>, "c2s");
    const sealer = new RecordSealer(Direction.CLIENT, new Uint8Array(16), 0, keys);
    const made = await Promise.all([1, 2, 3].map(() => sealer.seal(Content.APPLICATION, bytes(1), 0)));
    expect(made.map((record) => record[15])).toEqual([0, 1, 2]);
  });
});
