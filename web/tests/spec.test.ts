// @vitest-environment node
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { decode, encode, ProtocolViolation } from "../src/protocol/codec";
import type { ClientFrame, EntryType } from "../src/protocol/messages";
import { emptyLog, receive } from "../src/state/log";

const folder = new URL("../../spec/examples/", import.meta.url);

interface Example {
  from: "server" | "client";
  frames: ClientFrame[];
}

const examples = readdirSync(folder)
  .filter((name) => name.endsWith(".json"))
  .map((name) => [name, JSON.parse(readFileSync(new URL(name, folder), "utf8")) as Example] as const);

describe("the examples of the specification", () => {
  it("are there", () => {
    expect(examples.length).toBeGreaterThan(0);
  });

  it.each(examples)("%s has the known shape", (_name, example) => {
    expect(["server", "client"]).toContain(example.from);
    expect(Object.keys(example).sort()).toEqual(["frames", "from"]);
    expect(Array.isArray(example.frames)).toBe(true);
    expect(example.frames.length).toBeGreaterThan(0);
  });

  it.each(examples.filter(([, example]) => example.from === "server"))(
    "%s is understood whole",
    (_name, { frames }) => {
      expect(decode(JSON.stringify(frames))).toEqual(frames);
    },
  );

  it.each(examples.filter(([, example]) => example.from === "client"))(
    "%s is what we would write",
    (_name, { frames }) => {
      expect(JSON.parse(encode(frames))).toEqual(frames);
      for (const frame of frames) expect(typeof frame.op).toBe("string");
    },
  );

  it("have events that the fold takes in", () => {
    for (const [, { frames }] of examples) {
      for (const frame of frames) {
        if (frame.op !== "event") continue;
        const entry = frame as unknown as Parameters<typeof receive>[1];
        const [log, outcome] = receive(emptyLog(entry.seq - 1), entry);
        expect(outcome).toBe("applied");
        const changes: EntryType[] = ["message.edited", "message.deleted", "reaction.added", "reaction.removed"];
        expect(log.items).toHaveLength(changes.includes(entry.type) ? 0 : 1);
      }
    }
  });
});

describe("the decoder", () => {
  it("leaves out what it does not know, and keeps unknown fields", () => {
    const frames = decode('[{"op":"later"},{"op":"drain","after_ms":5,"new":1}]');
    expect(frames).toEqual([{ op: "drain", after_ms: 5, new: 1 }]);
  });

  it.each([
    "{}",
    "nothing",
    "[1]",
    "[null]",
    '[{"op":"event","type":"message.sent"}]',
    '[{"op":"reply","id":1,"data":{}}]',
    '[{"op":"reply","id":"1"}]',
    '[{"op":"ready","user":{},"device":"d","rooms":{},"resumed":true}]',
  ])("refuses %s", (text) => {
    expect(() => decode(text)).toThrow(ProtocolViolation);
  });
});
