/** The RSA key by which a server is known. It only signs: the secret of a session comes from ephemeral keys. */

import { sha256 } from "./hash";
import { type Bytes, bytes, concat, unhex, utf8 } from "./wire";

export const HANDSHAKE = "SecureChat SCSL/1 server handshake";
export const REKEY = "SecureChat SCSL/1 server rekey";
export const KEY_LIST = "SecureChat SCSL/1 key list";

const PREFIX = new Uint8Array(64).fill(0x20);
const EXPONENT = unhex("0203010001");
/** What comes before the modulus in the one DER encoding of an rsaEncryption key with the exponent 65537. */
const HEADS = [
  { head: unhex("30820122300d06092a864886f70d01010105000382010f003082010a0282010100"), modulus: 256 },
  { head: unhex("308201a2300d06092a864886f70d01010105000382018f003082018a0282018100"), modulus: 384 },
];

/** SHA-256 of the DER SubjectPublicKeyInfo: what is pinned and shown. */
export const keyIdOf = sha256;

function startsWith(data: Uint8Array, head: Uint8Array, at = 0): boolean {
  return head.every((value, index) => data[at + index] === value);
}

/** Return whether this is RSA with 2048 or 3072 bits and the exponent 65537, in the only encoding that has its key id. */
function mayBeIdentity(spki: Uint8Array): boolean {
  return HEADS.some(
    ({ head, modulus }) =>
      spki.length === head.length + modulus + EXPONENT.length &&
      startsWith(spki, head) &&
      (spki[head.length] ?? 0) >= 0x80 &&
      startsWith(spki, EXPONENT, head.length + modulus),
  );
}

/** Return whether a key that may be an identity made this signature for this purpose. */
export async function verify(spki: Bytes, context: string, digest: Bytes, signature: Bytes): Promise<boolean> {
  if (!mayBeIdentity(spki)) return false;
  const message = concat(PREFIX, utf8(context), bytes(0), digest);
  try {
    const key = await crypto.subtle.importKey("spki", spki, { name: "RSA-PSS", hash: "SHA-256" }, false, ["verify"]);
    return await crypto.subtle.verify({ name: "RSA-PSS", saltLength: 32 }, key, signature, message);
  } catch {
    return false;
  }
}
