import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { Field } from "../parts/Field";
import { useForm } from "../parts/useForm";
import { FormError } from "./Entrance";

/** The form for the second factor: a code of the authenticator app, or a recovery code. */
export function CodeForm({
  onCode,
  children,
}: {
  onCode: (code: string) => Promise<void>;
  children?: ComponentChildren;
}) {
  const [code, setCode] = useState("");
  const form = useForm(() => onCode(code), ["code"]);
  return (
    <form class="form" onSubmit={form.onSubmit}>
      <Field
        label="Code"
        value={code}
        onValue={setCode}
        error={form.errorOf("code")}
        hint="Six digits of your authenticator app, or a recovery code."
        name="code"
        autoComplete="one-time-code"
        autoCapitalize="characters"
        spellcheck={false}
        maxLength={32}
        required
        autoFocus
      />
      <FormError text={form.error} />
      <button type="submit" class="button button-primary button-wide" aria-disabled={form.isBusy}>
        {form.isBusy ? "Checking…" : "Continue"}
      </button>
      {children}
    </form>
  );
}
