import { useState } from "preact/hooks";
import { hasPasskeys } from "../../client/passkeys";
import { Refused } from "../../client/problem";
import { useApp } from "../context";
import { Icon } from "../icons";
import { Field } from "../parts/Field";
import { useForm } from "../parts/useForm";
import { navigate, route } from "../router";
import { Entrance, FormError } from "./Entrance";

export function Login({ wasIn }: { wasIn: boolean }) {
  const app = useApp();
  const [username, setUsername] = useState("");
  const [password, setPassword] = useState("");
  const [code, setCode] = useState("");
  const [wantsCode, setWantsCode] = useState(false);
  const goOn = () => {
    if (route.value.name === "login") navigate("/", true);
  };
  const form = useForm(async () => {
    try {
      await app.login(username.trim(), password, wantsCode ? code : "");
      goOn();
    } catch (error) {
      const isCodeWanted = error instanceof Refused && error.problem.code === "second_factor_required";
      setWantsCode(isCodeWanted);
      if (!isCodeWanted || wantsCode) throw error;
    }
  }, ["code"]);
  const passkey = useForm(async () => {
    await app.loginByPasskey();
    goOn();
  });
  const byPasskey = hasPasskeys() && (
    <button type="button" class="button button-wide" aria-disabled={passkey.isBusy} onClick={passkey.onSubmit}>
      <Icon name="key" size={18} /> Use a passkey
    </button>
  );
  if (wantsCode) {
    return (
      <Entrance title="One more step" lead="Your password is right. Now show that it is you.">
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
          <FormError text={form.error ?? passkey.error} />
          <button type="submit" class="button button-primary button-wide" aria-disabled={form.isBusy}>
            {form.isBusy ? "Checking…" : "Continue"}
          </button>
          {byPasskey}
          <button
            type="button"
            class="button button-wide"
            onClick={() => {
              setWantsCode(false);
              setCode("");
            }}
          >
            Back
          </button>
        </form>
      </Entrance>
    );
  }
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
        <FormError text={form.error ?? passkey.error} />
        <button type="submit" class="button button-primary button-wide" aria-disabled={form.isBusy}>
          {form.isBusy ? "Signing in…" : "Sign in"}
        </button>
        {byPasskey}
      </form>
      <p class="aside">No account yet? Ask somebody on this server for an invitation link.</p>
    </Entrance>
  );
}
