import { useEffect, useState } from "preact/hooks";
import { type Away, recall } from "../../client/away";
import { Refused, SignedOut, sentence } from "../../client/problem";
import type { ProviderOutcome } from "../../protocol/messages";
import { useApp } from "../context";
import { Field } from "../parts/Field";
import { useForm } from "../parts/useForm";
import { CodeForm } from "./CodeForm";
import { Entrance, FormError } from "./Entrance";

type Step =
  | { name: "busy" }
  | { name: "failed"; text: string; back: string }
  | { name: "code"; ticket: string; back: string }
  | { name: "register"; outcome: ProviderOutcome; invitation: string };

/** Go on where one was, with a page that is loaded anew: what the provider's address held is gone from it. */
const goOn = (path: string) => location.replace(path);

/** The page that a sign-in provider sends the browser back to. */
export function Returned({ provider }: { provider: string }) {
  const app = useApp();
  const [step, setStep] = useState<Step>({ name: "busy" });
  useEffect(() => {
    const query = new URLSearchParams(location.search);
    history.replaceState(null, "", location.pathname); // A code has no place in the history.
    void finish(query).then(setStep);
  }, []);

  async function finish(query: URLSearchParams): Promise<Step> {
    const away = recall();
    const back = away?.back ?? "/login";
    if (!away || away.provider !== provider || away.state !== query.get("state")) {
      const text = "This page belongs to no sign-in that was begun in this tab. Begin again.";
      return { name: "failed", text, back };
    }
    const code = query.get("code");
    if (!code) {
      const isDeclined = query.get("error") === "access_denied";
      const text = isDeclined ? "You said no at the provider." : "The provider did not let you in.";
      return { name: "failed", text, back };
    }
    const answer = { provider, ticket: away.ticket, state: away.state, code, iss: query.get("iss") ?? "" };
    try {
      if (away.what === "link") {
        await app.access.link(answer);
        goOn(back);
        return { name: "busy" };
      }
      return await enter(await app.finishProvider(answer), away);
    } catch (error) {
      const text =
        error instanceof SignedOut ? "You were signed out meanwhile. Sign in, and begin again." : sentence(error);
      return { name: "failed", text, back };
    }
  }

  async function enter(outcome: ProviderOutcome, away: Away): Promise<Step> {
    if (!outcome.known) return { name: "register", outcome, invitation: away.invitation };
    try {
      await app.loginByProvider(outcome.ticket, "");
    } catch (error) {
      const isCodeWanted = error instanceof Refused && error.problem.code === "second_factor_required";
      if (!isCodeWanted) throw error;
      return { name: "code", ticket: outcome.ticket, back: away.back };
    }
    goOn(away.back === "/login" ? "/" : away.back);
    return { name: "busy" };
  }

  switch (step.name) {
    case "busy":
      return (
        <Entrance title="Signing in">
          <div class="skeleton skeleton-line" />
        </Entrance>
      );
    case "failed":
      return (
        <Entrance title="That did not work" lead={step.text}>
          <button type="button" class="button button-primary button-wide" onClick={() => goOn(step.back)}>
            Back
          </button>
        </Entrance>
      );
    case "code":
      return (
        <Entrance title="One more step" lead="Your account here has a second factor. Show that it is you.">
          <CodeForm
            onCode={async (code) => {
              await app.loginByProvider(step.ticket, code);
              goOn(step.back === "/login" ? "/" : step.back);
            }}
          />
        </Entrance>
      );
    case "register":
      return <Register outcome={step.outcome} invitation={step.invitation} />;
  }
}

function Register({ outcome, invitation }: { outcome: ProviderOutcome; invitation: string }) {
  const app = useApp();
  const [username, setUsername] = useState(suggested(outcome.username));
  const [name, setName] = useState(outcome.display_name);
  const form = useForm(async () => {
    await app.registerByProvider(outcome.ticket, username.trim(), name.trim(), invitation);
    goOn("/");
  }, ["username", "display_name"]);
  if (outcome.invited && !invitation) {
    return (
      <Entrance
        title="No account here yet"
        lead="No account on this server is opened by that one. If you have an account here, sign in and link it in Settings. If not, ask for an invitation, and press the button on its page."
      >
        <button type="button" class="button button-primary button-wide" onClick={() => goOn("/login")}>
          Sign in another way
        </button>
      </Entrance>
    );
  }
  return (
    <Entrance title="Create your account" lead="You are signed in at the provider. Choose how others see you here.">
      <form class="form" onSubmit={form.onSubmit}>
        <Field
          label="Your name"
          value={name}
          onValue={setName}
          error={form.errorOf("display_name")}
          name="display_name"
          autoComplete="name"
          maxLength={64}
          required
        />
        <Field
          label="Username"
          value={username}
          onValue={setUsername}
          error={form.errorOf("username")}
          hint="Letters a–z, digits, dots, dashes or underscores."
          name="username"
          autoComplete="username"
          autoCapitalize="none"
          spellcheck={false}
          minLength={2}
          maxLength={32}
          required
        />
        <FormError text={form.error} />
        <button type="submit" class="button button-primary button-wide" aria-disabled={form.isBusy}>
          {form.isBusy ? "Creating…" : "Create account"}
        </button>
      </form>
    </Entrance>
  );
}

/** Return what a provider suggests as a username here, as far as it can be one. */
function suggested(name: string): string {
  return (name.split("@")[0] ?? "")
    .toLowerCase()
    .replace(/[^a-z0-9._-]/g, "")
    .replace(/^[._-]+/, "")
    .slice(0, 32);
}
