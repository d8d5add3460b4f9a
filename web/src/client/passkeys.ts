/** Passkeys: the browser's WebAuthn in the JSON form that the server speaks. */

import { PasskeyTrouble } from "./problem";

const NONE = "No passkey was used. You can try again.";

/** Return whether this browser can use passkeys here: it asks for a secure page, and for a server with a name. */
export function hasPasskeys(): boolean {
  return (
    typeof PublicKeyCredential === "function" &&
    typeof PublicKeyCredential.parseRequestOptionsFromJSON === "function" &&
    !/^[\d.]+$|^\[/.test(location.hostname)
  );
}

async function answered(work: Promise<Credential | null>): Promise<unknown> {
  let found: Credential | null;
  try {
    found = await work;
  } catch (error) {
    if (error instanceof DOMException && error.name === "InvalidStateError") {
      throw new PasskeyTrouble("This device has a passkey for your account already.");
    }
    throw new PasskeyTrouble(NONE);
  }
  if (!(found instanceof PublicKeyCredential)) throw new PasskeyTrouble(NONE);
  return found.toJSON();
}

/** Let the person make a passkey; return the answer for the server. */
export function makePasskey(options: PublicKeyCredentialCreationOptionsJSON): Promise<unknown> {
  const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(options);
  return answered(navigator.credentials.create({ publicKey }));
}

/** Let the person choose and use a passkey; return the answer for the server. */
export function usePasskey(options: PublicKeyCredentialRequestOptionsJSON): Promise<unknown> {
  const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(options);
  return answered(navigator.credentials.get({ publicKey }));
}
