import { useState } from "preact/hooks";
import { hasPasskeys } from "../../client/passkeys";
import { Refused } from "../../client/problem";
import type { TotpSecret } from "../../protocol/messages";
import { deviceName } from "../../state/app";
import { useApp } from "../context";
import { Icon } from "../icons";
import { useForm } from "../parts/useForm";
import { RecoveryCodes } from "../security/RecoveryCodes";
import { TotpSetup } from "../security/TotpSetup";
import { Entrance, FormError } from "./Entrance";

/** The page for somebody whose role wants a second factor that is not set up yet: there is no way around it. */
export function Enrol() {
  const app = useApp();
  const [begun, setBegun] = useState<TotpSecret | null>(null);
  const [codes, setCodes] = useState<string[] | null>(null);
  const done = async (fresh: string[]) => {
    if (fresh.length) setCodes(fresh);
    else await app.enrolled();
  };
  /** Who signed in long ago signs in once more: there is nothing else that they could do here. */
  const soon = async (work: () => Promise<void>) => {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof Refused) || error.problem.code !== "confirmation_required") throw error;
      await app.logout();
    }
  };
  const totp = useForm(() => soon(async () => setBegun(await app.security.beginTotp())));
  const passkey = useForm(() => soon(async () => done(await app.security.addPasskey(deviceName()))));
  if (codes) {
    return (
      <Entrance title="Recovery codes">
        <RecoveryCodes codes={codes} onDone={() => void app.enrolled()} />
      </Entrance>
    );
  }
  if (begun) {
    return (
      <Entrance title="Authenticator app">
        <TotpSetup begun={begun} onCancel={() => setBegun(null)} onDone={(fresh) => void done(fresh)} />
      </Entrance>
    );
  }
  return (
    <Entrance
      title="Set up a second factor"
      lead="This server asks for more than a password from your role. It takes a minute, and then you are in."
    >
      <div class="form">
        {hasPasskeys() && (
          <button
            type="button"
            class="button button-primary button-wide"
            aria-disabled={passkey.isBusy}
            onClick={passkey.onSubmit}
          >
            <Icon name="key" size={18} /> Use a passkey
          </button>
        )}
        <button type="button" class="button button-wide" aria-disabled={totp.isBusy} onClick={totp.onSubmit}>
          <Icon name="phone" size={18} /> Use an authenticator app
        </button>
        <FormError text={totp.error ?? passkey.error} />
      </div>
      <p class="aside">
        <button type="button" class="button button-wide" onClick={() => void app.logout()}>
          <Icon name="logout" size={18} /> Log out
        </button>
      </p>
    </Entrance>
  );
}
