import { useState } from "preact/hooks";
import type { TotpSecret } from "../../protocol/messages";
import { useApp } from "../context";
import { FormError } from "../entrance/Entrance";
import { Field } from "../parts/Field";
import { useForm } from "../parts/useForm";
import { QrCode } from "./QrCode";

interface Props {
  begun: TotpSecret;
  onDone: (codes: string[]) => void;
  onCancel: () => void;
}

/** The second step of setting an authenticator app up: scan, then type what it shows. */
export function TotpSetup({ begun, onDone, onCancel }: Props) {
  const app = useApp();
  const [code, setCode] = useState("");
  const form = useForm(async () => onDone(await app.security.confirmTotp(begun.ticket, code)), ["code"]);
  const groups = begun.secret.match(/.{1,4}/g)?.join(" ") ?? begun.secret;
  return (
    <form class="form" onSubmit={form.onSubmit}>
      <p>Scan this with an authenticator app, then type the six digits that it shows.</p>
      <QrCode rows={begun.qr} label="QR code for the authenticator app" />
      <p class="hint">
        No camera? Type this key into the app: <code class="secret">{groups}</code>
      </p>
      <Field
        label="Code"
        value={code}
        onValue={setCode}
        error={form.errorOf("code")}
        name="code"
        autoComplete="one-time-code"
        inputMode="numeric"
        maxLength={16}
        required
        autoFocus
      />
      <FormError text={form.error} />
      <div class="dialog-actions">
        <button type="button" class="button" onClick={onCancel}>
          Cancel
        </button>
        <button type="submit" class="button button-primary" aria-disabled={form.isBusy}>
          {form.isBusy ? "Checking…" : "Turn on"}
        </button>
      </div>
    </form>
  );
}
