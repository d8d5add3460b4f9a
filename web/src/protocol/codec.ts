/** WebSocket text ↔ frames. Unknown `op`s of the server are left out; a known one with wrong fields is a violation. */

import type { ClientFrame, ServerFrame } from "./messages";

type Kind = "string" | "number" | "boolean" | "object" | "array" | "any";

/** Fields that a frame cannot do without. */
const REQUIRED: Record<ServerFrame["op"], Record<string, Kind>> = {
  hello: { protocol: "number", server: "string", version: "string", limits: "object" },
  ready: { user: "object", device: "string", rooms: "array", resumed: "boolean" },
  event: { type: "string", room: "string", seq: "number", at: "number", user: "string" },
  signal: { type: "string" },
  reply: { id: "string", data: "any" },
  error: { code: "string", title: "string", status: "number", detail: "string" },
  pong: { id: "string", time: "number" },
  drain: { after_ms: "number" },
};

export class ProtocolViolation extends Error {}

function kindOf(value: unknown): Kind | "null" | "undefined" {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  return typeof value as Kind;
}

function isKnown(op: unknown): op is ServerFrame["op"] {
  return typeof op === "string" && Object.hasOwn(REQUIRED, op);
}

/** Return the frames of one WebSocket message, in order. */
export function decode(text: string): ServerFrame[] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    throw new ProtocolViolation("not JSON");
  }
  if (!Array.isArray(parsed)) throw new ProtocolViolation("not an array of frames");
  const frames: ServerFrame[] = [];
  for (const frame of parsed as unknown[]) {
    if (kindOf(frame) !== "object") throw new ProtocolViolation("a frame is not an object");
    const { op } = frame as { op?: unknown };
    if (!isKnown(op)) continue;
    for (const [field, kind] of Object.entries(REQUIRED[op])) {
      const found = kindOf((frame as Record<string, unknown>)[field]);
      if (found === "undefined" || (kind !== "any" && found !== kind)) {
        throw new ProtocolViolation(`${op}.${field} is ${found}`);
      }
    }
    frames.push(frame as ServerFrame);
  }
  return frames;
}

/** Return the text of one WebSocket message. */
export function encode(frames: readonly ClientFrame[]): string {
  return JSON.stringify(frames);
}
