import { useState } from "preact/hooks";
import { useApp } from "../context";
import { Field } from "../parts/Field";
import { useForm } from "../parts/useForm";
import { Entrance, FormError } from "./Entrance";

export function Reset({ token }: { token: string }) {
  const app = useApp();
  const [password, setPassword] = useState("");
  const [isDone, setDone] = useState(false);
  const form = useForm(async () => {
    await app.resetPassword(token, password);
    setDone(true);
  }, ["password"]);
  if (isDone) {
    return (
      <Entrance title="Password changed" lead="You were signed out on all devices. Sign in with the new password.">
        <a class="button button-primary button-wide" href="/login">
          Sign in
        </a>
      </Entrance>
    );
  }
  if (!token) {
    return <Entrance title="New password" lead="This link is not complete. Open the whole link that you were given." />;
  }
  return (
    <Entrance title="New password" lead="Choose a new password. All your devices are signed out.">
      <form class="form" onSubmit={form.onSubmit}>
        <Field
          label="New password"
          value={password}
          onValue={setPassword}
          error={form.errorOf("password")}
          hint="At least 8 characters."
          name="password"
          type="password"
          autoComplete="new-password"
          minLength={8}
          required
          autoFocus
        />
        <FormError text={form.error} />
        <button type="submit" class="button button-primary button-wide" aria-disabled={form.isBusy}>
          {form.isBusy ? "Saving…" : "Set password"}
        </button>
      </form>
    </Entrance>
  );
}
