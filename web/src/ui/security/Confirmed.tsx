import { useState } from "preact/hooks";
import { hasPasskeys } from "../../client/passkeys";
import { Refused } from "../../client/problem";
import { useApp } from "../context";
import { FormError } from "../entrance/Entrance";
import { Icon } from "../icons";
import { Dialog } from "../parts/Dialog";
import { Field } from "../parts/Field";
import { useForm } from "../parts/useForm";

interface Waiting {
  again: () => void;
  cancel: () => void;
}

/**
 * Dangerous changes, which the server takes only from somebody who authenticated a moment ago.
 *
 * @returns `confirmed` does the work, and once more after the person confirmed; `question` asks them, and is to be shown.
 */
export function useConfirmed() {
  const [waiting, setWaiting] = useState<Waiting | null>(null);
  const confirmed = async <T,>(work: () => Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof Refused) || error.problem.code !== "confirmation_required") throw error;
      await new Promise<void>((done, cancel) => setWaiting({ again: done, cancel: () => cancel(error) }));
      return work();
    }
  };
  const question = waiting && (
    <ConfirmIdentity
      onClose={() => {
        setWaiting(null);
        waiting.cancel();
      }}
      onDone={() => {
        setWaiting(null);
        waiting.again();
      }}
    />
  );
  return { confirmed, question };
}

function ConfirmIdentity({ onClose, onDone }: { onClose: () => void; onDone: () => void }) {
  const app = useApp();
  const [password, setPassword] = useState("");
  const [code, setCode] = useState("");
  const [wantsCode, setWantsCode] = useState(false);
  const form = useForm(async () => {
    try {
      await app.security.confirm(password, code);
      onDone();
    } catch (error) {
      const isCodeWanted = error instanceof Refused && error.problem.code === "second_factor_required";
      if (isCodeWanted) setWantsCode(true);
      if (!isCodeWanted || wantsCode) throw error;
    }
  }, ["password", "code"]);
  const passkey = useForm(async () => {
    await app.security.confirmByPasskey();
    onDone();
  });
  return (
    <Dialog title="Confirm that it is you" size="small" onClose={onClose}>
      <form class="form" onSubmit={form.onSubmit}>
        <Field
          label="Your password"
          value={password}
          onValue={setPassword}
          error={form.errorOf("password")}
          name="password"
          type="password"
          autoComplete="current-password"
          required
          autoFocus
        />
        {wantsCode && (
          <Field
            label="Code"
            value={code}
            onValue={setCode}
            error={form.errorOf("code")}
            hint="Of your authenticator app, or a recovery code."
            name="code"
            autoComplete="one-time-code"
            required
            autoFocus
          />
        )}
        <FormError text={form.error ?? passkey.error} />
        <div class="dialog-actions">
          {hasPasskeys() && (
            <button type="button" class="button" aria-disabled={passkey.isBusy} onClick={passkey.onSubmit}>
              <Icon name="key" size={18} /> Use a passkey
            </button>
          )}
          <button type="submit" class="button button-primary" aria-disabled={form.isBusy}>
            Confirm
          </button>
        </div>
      </form>
    </Dialog>
  );
}
