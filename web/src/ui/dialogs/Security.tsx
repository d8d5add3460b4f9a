import { useEffect, useState } from "preact/hooks";
import { hasPasskeys } from "../../client/passkeys";
import { Refused, sentence } from "../../client/problem";
import type { Factors, Passkey, TotpSecret } from "../../protocol/messages";
import { deviceName } from "../../state/app";
import { useApp, useChat } from "../context";
import { FormError } from "../entrance/Entrance";
import { Icon } from "../icons";
import { Confirm } from "../parts/Confirm";
import { Dialog } from "../parts/Dialog";
import { Field } from "../parts/Field";
import { useForm } from "../parts/useForm";
import { useConfirmed } from "../security/Confirmed";
import { RecoveryCodes } from "../security/RecoveryCodes";
import { TotpSetup } from "../security/TotpSetup";
import { shortTimeOf } from "../when";
import { ExternalAccounts } from "./ExternalAccounts";

type Step =
  | { name: "password" }
  | { name: "totp"; begun: TotpSecret }
  | { name: "codes"; codes: string[] }
  | { name: "remove"; passkey: Passkey | null };

/** The section for one's own password and second factors. */
export function Security() {
  const app = useApp();
  const chat = useChat();
  const [factors, setFactors] = useState<Factors | null>(null);
  const [step, setStep] = useState<Step | null>(null);
  const { confirmed, question } = useConfirmed();
  const load = async () => setFactors(await app.security.factors());
  useEffect(() => {
    void chat.attempt(load());
  }, []);
  const close = () => setStep(null);
  /** Do something dangerous; what goes wrong is told, but for the person's own "no". */
  const act = async (work: () => Promise<void>) => {
    try {
      await confirmed(work);
      await load();
    } catch (error) {
      const isDeclined = error instanceof Refused && error.problem.code === "confirmation_required";
      if (!isDeclined) chat.tell(sentence(error), true);
    }
  };
  const show = (codes: string[]) => setStep(codes.length ? { name: "codes", codes } : null);
  const begin = () => act(async () => setStep({ name: "totp", begun: await app.security.beginTotp() }));
  const addPasskey = () => act(async () => show(await app.security.addPasskey(deviceName())));
  const remove = (passkey: Passkey | null) =>
    act(() => (passkey ? app.security.removePasskey(passkey.id) : app.security.removeTotp()));
  const hasAny = factors !== null && (factors.totp || factors.passkeys.length > 0);
  return (
    <section aria-labelledby="settings-security">
      <h3 id="settings-security">Sign-in and security</h3>
      {!factors && <div class="skeleton skeleton-line" />}
      {factors && (
        <ul class="plain-list ways" aria-label="Ways to sign in">
          <li>
            <Icon name="lock" />
            <Names
              name="Password"
              hint={factors.password ? "Changing it signs out all your other devices." : "None so far."}
            />
            <button type="button" class="button" onClick={() => setStep({ name: "password" })}>
              {factors.password ? "Change password" : "Set a password"}
            </button>
          </li>
          <li>
            <Icon name="phone" />
            <Names
              name="Authenticator app"
              hint={factors.totp ? "On: a code is asked for after the password." : "Off"}
            />
            {factors.totp ? (
              <button type="button" class="button" onClick={() => setStep({ name: "remove", passkey: null })}>
                Turn off app
              </button>
            ) : (
              <button type="button" class="button" onClick={() => void begin()}>
                Set up app
              </button>
            )}
          </li>
          {factors.passkeys.map((passkey) => (
            <li key={passkey.id}>
              <Icon name="key" />
              <Names
                name={passkey.name}
                hint={
                  passkey.last_used_at
                    ? `Passkey · last used ${shortTimeOf(passkey.last_used_at)}`
                    : `Passkey · made ${shortTimeOf(passkey.created_at)}`
                }
              />
              <button
                type="button"
                class="button"
                aria-label={`Remove passkey ${passkey.name}`}
                onClick={() => setStep({ name: "remove", passkey })}
              >
                Remove
              </button>
            </li>
          ))}
          {hasPasskeys() && (
            <li>
              <Icon name="key" />
              <Names name="Add a passkey" hint="Sign in with your fingerprint, face or screen lock." />
              <button type="button" class="button" onClick={() => void addPasskey()}>
                Add passkey
              </button>
            </li>
          )}
          <ExternalAccounts act={act} />
          {hasAny && (
            <li>
              <Icon name="copy" />
              <Names name="Recovery codes" hint={`${factors.recovery_codes} left`} />
              <button
                type="button"
                class="button"
                onClick={() => void act(async () => show(await app.security.createCodes()))}
              >
                New codes
              </button>
            </li>
          )}
        </ul>
      )}
      {factors?.required && <p class="hint">Your role must have a second factor.</p>}
      {step?.name === "password" && (
        <ChangePassword
          hasOne={factors?.password ?? true}
          confirmed={confirmed}
          onClose={() => {
            close();
            void chat.attempt(load());
          }}
        />
      )}
      {step?.name === "totp" && (
        <Dialog title="Authenticator app" size="small" onClose={close}>
          <TotpSetup
            begun={step.begun}
            onCancel={close}
            onDone={(codes) => {
              show(codes);
              void chat.attempt(load());
            }}
          />
        </Dialog>
      )}
      {step?.name === "codes" && (
        <Dialog title="Recovery codes" size="small" onClose={close}>
          <RecoveryCodes codes={step.codes} onDone={close} />
        </Dialog>
      )}
      {step?.name === "remove" && (
        <Confirm
          title={step.passkey ? "Remove passkey" : "Turn off the app"}
          verb={step.passkey ? "Remove passkey" : "Turn off"}
          onClose={close}
          onConfirm={() => {
            close();
            void remove(step.passkey);
          }}
        >
          {step.passkey
            ? `“${step.passkey.name}” does not sign you in any more.`
            : "Codes of the app are not asked for any more, and the app's entry can be deleted."}
        </Confirm>
      )}
      {question}
    </section>
  );
}

function Names({ name, hint }: { name: string; hint: string }) {
  return (
    <span class="choice-names">
      <span class="choice-name">{name}</span>
      <span class="hint">{hint}</span>
    </span>
  );
}

interface ChangeProps {
  hasOne: boolean;
  confirmed: <T>(work: () => Promise<T>) => Promise<T>;
  onClose: () => void;
}

function ChangePassword({ hasOne, confirmed, onClose }: ChangeProps) {
  const app = useApp();
  const chat = useChat();
  const [current, setCurrent] = useState("");
  const [password, setPassword] = useState("");
  const form = useForm(async () => {
    await confirmed(() => app.security.changePassword(current, password));
    chat.tell(`Password ${hasOne ? "changed" : "set"}. Your other devices are signed out.`);
    onClose();
  }, ["current", "password"]);
  return (
    <Dialog title={hasOne ? "Change password" : "Set a password"} size="small" onClose={onClose}>
      <form class="form" onSubmit={form.onSubmit}>
        {hasOne && (
          <Field
            label="Current password"
            value={current}
            onValue={setCurrent}
            error={form.errorOf("current")}
            name="current"
            type="password"
            autoComplete="current-password"
            required
            autoFocus
          />
        )}
        <Field
          label="New password"
          value={password}
          onValue={setPassword}
          error={form.errorOf("password")}
          hint="At least 8 characters. A few words are easier to remember than symbols."
          name="password"
          type="password"
          autoComplete="new-password"
          minLength={8}
          required
        />
        <FormError text={form.error} />
        <div class="dialog-actions">
          <button type="button" class="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" class="button button-primary" aria-disabled={form.isBusy}>
            {form.isBusy ? "Saving…" : hasOne ? "Change password" : "Set a password"}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
