import { useState } from "preact/hooks";
import { Refused } from "../../client/problem";
import { useApp } from "../context";
import { Field } from "../parts/Field";
import { useForm } from "../parts/useForm";
import { Entrance, FormError } from "./Entrance";

export function Reset({ token }: { token: string }) {
  const app = useApp();
  const [password, setPassword] = useState("");
  const [isDone, setDone] = useState(false);
  const [isGone, setGone] = useState(false);
  const form = useForm(async () => {
    try {
      await app.resetPassword(token, password);
      setDone(true);
    } catch (error) {
      if (!(error instanceof Refused) || error.problem.code !== "link_invalid") throw error;
      setGone(true);
    }
  }, ["password"]);
  if (isDone) {
    return (
      <Entrance
        title="The password is set"
        lead="Sign in with it. Wherever you were signed in before, you are signed out now."
      >
        <a class="button button-primary button-wide" href="/login">
          Sign in
        </a>
      </Entrance>
    );
  }
  if (isGone) {
    return (
      <Entrance
        title="This link does not work any more"
        lead="Each link works once, for a day. Ask the people who run this server for a new one."
      >
        <a class="button button-wide" href="/login">
          Sign in instead
        </a>
      </Entrance>
    );
  }
  if (!token) {
    return (
      <Entrance
        title="This link is not complete"
        lead="A part of it was cut off. Open the whole link that you were given, with what stands after the #."
      />
    );
  }
  return (
    <Entrance
      title={`Your password for ${app.serverName.value}`}
      lead="Choose the one that you will sign in with. If you are signed in somewhere, that ends; what you wrote stays."
    >
      <form class="form" onSubmit={form.onSubmit}>
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
