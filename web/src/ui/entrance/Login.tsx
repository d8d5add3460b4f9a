import { useState } from "preact/hooks";
import { hasPasskeys } from "../../client/passkeys";
import { Refused } from "../../client/problem";
import { useApp } from "../context";
import { Icon } from "../icons";
import { Field } from "../parts/Field";
import { useForm } from "../parts/useForm";
import { navigate, route } from "../router";
import { CodeForm } from "./CodeForm";
import { Entrance, FormError } from "./Entrance";
import { Providers } from "./Providers";

export function Login({ wasIn }: { wasIn: boolean }) {
  const app = useApp();
  const [username, setUsername] = useState("");
  const [password, setPassword] = useState("");
  const [wantsCode, setWantsCode] = useState(false);
  const goOn = () => {
    if (route.value.name === "login") navigate("/", true);
  };
  const form = useForm(async () => {
    try {
      await app.login(username.trim(), password, "");
      goOn();
    } catch (error) {
      const isCodeWanted = error instanceof Refused && error.problem.code === "second_factor_required";
      if (!isCodeWanted) throw error;
      setWantsCode(true);
    }
  });
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
        <CodeForm
          onCode={async (code) => {
            await app.login(username.trim(), password, code);
            goOn();
          }}
        >
          <FormError text={passkey.error} />
          {byPasskey}
          <button type="button" class="button button-wide" onClick={() => setWantsCode(false)}>
            Back
          </button>
        </CodeForm>
      </Entrance>
    );
  }
  return (
    <Entrance
      title={`Sign in to ${app.serverName.value}`}
      lead={wasIn ? "You were signed out. Your drafts are still here." : "With the account that you have here."}
    >
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
      <Providers verb="Sign in with" />
      <p class="aside">
        No account yet? Ask somebody on this server for an invitation link. Forgot your password? Whoever runs it can
        give you a link to set a new one.
      </p>
      {app.isUnnamed && (
        <p class="aside">Is this server yours, and new? Open the setup link that it printed when it started.</p>
      )}
    </Entrance>
  );
}
