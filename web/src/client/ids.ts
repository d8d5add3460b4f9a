/** Ids that this client makes. `crypto.randomUUID` is missing outside secure contexts, `getRandomValues` is not. */

const ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz";

/** Return 80 random bits as 16 characters. */
export function randomId(): string {
  let id = "";
  for (const byte of crypto.getRandomValues(new Uint8Array(16))) id += ALPHABET[byte & 31];
  return id;
}
