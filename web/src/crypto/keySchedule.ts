/** From a shared secret to the keys of an epoch, and from each epoch to the next (spec/session-layer.md 4). */

import { sha256 } from "./hash";
import { type Bytes, concat, u16, utf8, vec8 } from "./wire";

/** What seals one direction of one epoch. Nobody can read the two keys out of the browser's keeping. */
export interface DirectionKeys {
  key: CryptoKey;
  /** 12 bytes. */
  iv: Bytes;
  mac: CryptoKey;
}

export interface EpochKeys {
  /** TH, the hash of what both sides said. */
  transcript: Bytes;
  client: DirectionKeys;
  server: DirectionKeys;
  clientFin: CryptoKey;
  serverFin: CryptoKey;
  /** 32 bytes for others to bind themselves to this epoch. */
  exporter: Bytes;
  /** Salt of the next epoch, 32 bytes. */
  chain: Bytes;
}

/** HKDF-Expand's info: TLS 1.3's label (RFC 8446 7.1) with our prefix. */
export function label(name: string, transcript: Bytes, size: number): Bytes {
  return concat(u16(size), vec8(utf8(`scsl1 ${name}`)), vec8(transcript));
}

/** The key schedule of one session. */
export class KeySchedule {
  epoch = -1;
  private chain: Bytes | null = null;

  /**
   * Return the keys of the next epoch; the first one is 0.
   *
   * @param secret Z, as `EphemeralKey.exchange` returns it.
   * @param transcript TH of that epoch.
   */
  async advance(secret: CryptoKey, transcript: Bytes): Promise<EpochKeys> {
    const salt = this.chain ?? (await sha256(utf8("SecureChat SCSL/1 epoch 0")));
    const from = (name: string, size: number) => {
      return { name: "HKDF", hash: "SHA-256", salt, info: label(name, transcript, size) };
    };
    const raw = async (name: string, size: number): Promise<Bytes> =>
      new Uint8Array(await crypto.subtle.deriveBits(from(name, size), secret, size * 8));
    const cipher = (name: string) =>
      crypto.subtle.deriveKey(from(name, 32), secret, { name: "AES-GCM", length: 256 }, false, ["encrypt", "decrypt"]);
    // Without its length the key would be as long as a block of the hash: another key.
    const mac = (name: string) =>
      crypto.subtle.deriveKey(from(name, 32), secret, { name: "HMAC", hash: "SHA-256", length: 256 }, false, [
        "sign",
        "verify",
      ]);
    const direction = async (name: string): Promise<DirectionKeys> => {
      const [key, iv, tag] = await Promise.all([cipher(`${name} key`), raw(`${name} iv`, 12), mac(`${name} mac`)]);
      return { key, iv, mac: tag };
    };
    const [client, server, clientFin, serverFin, exporter, chain] = await Promise.all([
      direction("c2s"),
      direction("s2c"),
      mac("c fin"),
      mac("s fin"),
      raw("exporter", 32),
      raw("chain", 32),
    ]);
    this.chain = chain;
    this.epoch += 1;
    return { transcript, client, server, clientFin, serverFin, exporter, chain };
  }
}

export async function tagOf(key: CryptoKey, data: Bytes): Promise<Bytes> {
  return new Uint8Array(await crypto.subtle.sign("HMAC", key, data));
}

/** Compare in constant time. */
export function holds(key: CryptoKey, tag: Bytes, data: Bytes): Promise<boolean> {
  return crypto.subtle.verify("HMAC", key, tag, data);
}
