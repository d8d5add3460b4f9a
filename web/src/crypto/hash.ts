/** SHA-256, and the transcript of what both sides said. */

import { type Bytes, concat, framed } from "./wire";

export async function sha256(data: Bytes): Promise<Bytes> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", data));
}

/** H(F(m₁) ‖ F(m₂) ‖ …). */
export function transcript(...messages: Bytes[]): Promise<Bytes> {
  return sha256(concat(...messages.map(framed)));
}
