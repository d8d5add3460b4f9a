import { useState } from "preact/hooks";
import { useApp } from "../context";
import { Field } from "../parts/Field";
import { useForm } from "../parts/useForm";
import { navigate, route } from "../router";
import { Entrance, FormError } from "./Entrance";

export function Login({ wasIn }: { wasIn: boolean }) {
  const app = useApp();
  const [username, setUsername] = useState("");
  const [password, setPassword] = useState("");
  const form = useForm(async () => {
    await app.login(username.trim(), password);
    if (route.value.name === "login") navigate("/", true);
  });
  return (
    <Entrance title="Sign in" lead={wasIn ? "You were signed out. Your drafts are still here." : "Welcome back."}>
      <form class="form" onSubmit={form.onSubmit}>
        <Field
          label="Username"
          value={username}
          onValue={setUsername}
          name="username"
          autoComplete="username"
          autoCapitalize="none"
          spellcheck={false}
          required
          autoFocus
        />
        <Field
          label="Password"
          value={password}
          onValue={setPassword}
          name="password"
          type="password"
          autoComplete="current-password"
          required
        />
        <FormError text={form.error} />
        <button type="submit" class="button button-primary button-wide" aria-disabled={form.isBusy}>
          {form.isBusy ? "Signing in…" : "Sign in"}
        </button>
      </form>
      <p class="aside">No account yet? Ask somebody on this server for an invitation link.</p>
    </Entrance>
  );
}
