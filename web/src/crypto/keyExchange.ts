/** Suites, and the ephemeral keys of one handshake or rekey. */

import { type Bytes, PROTOCOL, SessionRefused } from "./wire";

/** How the secret is made. Both: HKDF-SHA256, AES-256-GCM, HMAC-SHA256, RSA-PSS-SHA256. */
export const Suite = { P256: 0x0001, X25519: 0x0002 } as const;
export type Suite = (typeof Suite)[keyof typeof Suite];

const SHARE_BYTES: Record<Suite, number> = { [Suite.P256]: 65, [Suite.X25519]: 32 };
const ALGORITHM = {
  [Suite.P256]: { name: "ECDH", namedCurve: "P-256" },
  [Suite.X25519]: { name: "X25519" },
} as const;

export const isSuite = (number: number): number is Suite => Object.hasOwn(SHARE_BYTES, number);
export const shareBytes = (suite: Suite): number => SHARE_BYTES[suite];

/** Return whether 32 little-endian bytes are at least 2^255 − 19: another encoding of a smaller number. */
function isUnreduced(share: Uint8Array): boolean {
  const last = share[31] ?? 0;
  return (
    last > 0x7f || (last === 0x7f && (share[0] ?? 0) >= 0xed && share.subarray(1, 31).every((byte) => byte === 0xff))
  );
}

/** A key for one exchange. It is used once and dropped. */
export class EphemeralKey {
  constructor(
    readonly suite: Suite,
    readonly share: Bytes,
    private secret: CryptoKey | null,
  ) {}

  static async generate(suite: Suite): Promise<EphemeralKey> {
    const pair = (await crypto.subtle.generateKey(ALGORITHM[suite], false, ["deriveBits"])) as CryptoKeyPair;
    const share = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
    return new EphemeralKey(suite, share, pair.privateKey);
  }

  /**
   * Return the shared secret Z as a key that HKDF can use and nobody can read, and forget the own key.
   *
   * @throws SessionRefused The peer's share is no point of the group, or leads to a secret that others know.
   */
  async exchange(peer: Bytes): Promise<CryptoKey> {
    const { secret } = this;
    this.secret = null;
    if (!secret) throw new Error("an ephemeral key was used twice");
    const isForm = peer.length === SHARE_BYTES[this.suite];
    const isCanonical = this.suite === Suite.P256 ? peer[0] === 4 : !isUnreduced(peer);
    if (!isForm || !isCanonical) throw new SessionRefused(PROTOCOL, "share");
    let z: Bytes;
    try {
      const algorithm = ALGORITHM[this.suite];
      const theirs = await crypto.subtle.importKey("raw", peer, algorithm, false, []);
      z = new Uint8Array(await crypto.subtle.deriveBits({ name: algorithm.name, public: theirs }, secret, 256));
    } catch {
      throw new SessionRefused(PROTOCOL, "share"); // Not on the curve, or an all-zero result.
    }
    if (z.every((byte) => byte === 0)) throw new SessionRefused(PROTOCOL, "share");
    const key = await crypto.subtle.importKey("raw", z, "HKDF", false, ["deriveBits", "deriveKey"]);
    z.fill(0);
    return key;
  }
}

let supported: Promise<readonly Suite[]> | undefined;

/** Return the suites that this browser has, the preferred one first. */
export function suites(): Promise<readonly Suite[]> {
  supported ??= EphemeralKey.generate(Suite.X25519).then(
    () => [Suite.X25519, Suite.P256],
    () => [Suite.P256],
  );
  return supported;
}
