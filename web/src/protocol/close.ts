/** Close codes and what the client does next (spec, section 5). */

export type Next =
  | "drain"
  | "network"
  | "overloaded"
  | "resume"
  | "protocol"
  | "unauthorized"
  | "rehandshake"
  | "wrong_host"
  | "update_needed"
  | "replaced"
  | "too_big";

const NEXT: Record<number, Next> = {
  1009: "too_big",
  1011: "overloaded",
  1013: "overloaded",
  4000: "drain",
  4008: "resume",
  4400: "protocol",
  4401: "unauthorized",
  4403: "rehandshake",
  4404: "wrong_host",
  4406: "update_needed",
  4409: "replaced",
  4429: "overloaded",
  4503: "overloaded",
};

/** Return what a close code asks for; an unknown one is treated as the network's fault. */
export function nextAfter(code: number): Next {
  return NEXT[code] ?? "network";
}
