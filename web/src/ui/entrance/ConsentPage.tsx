import { useEffect, useState } from "preact/hooks";
import { sentence } from "../../client/problem";
import type { ConsentRequest } from "../../client/rest";
import type { Consent } from "../../protocol/messages";
import { useApp, useChat } from "../context";
import { Icon } from "../icons";
import { Field } from "../parts/Field";
import { useForm } from "../parts/useForm";
import { useConfirmed } from "../security/Confirmed";
import { Entrance, FormError } from "./Entrance";

const FIELDS = [
  "client_id",
  "redirect_uri",
  "response_type",
  "scope",
  "state",
  "code_challenge",
  "code_challenge_method",
];

/** Return what stands in an app's address; a name that stands there twice says nothing that one could rely on. */
function requestOf(query: URLSearchParams): ConsentRequest {
  const found: ConsentRequest = {};
  for (const name of FIELDS) {
    const values = query.getAll(name);
    if (values.length === 1 && values[0]) found[name] = values[0];
  }
  return found;
}

/** Where an app sends somebody, to be let in. */
export function Authorize() {
  const app = useApp();
  const [request] = useState(() => requestOf(new URLSearchParams(location.search)));
  const [consent, setConsent] = useState<Consent | null>(null);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    app.access.consent(request).then(setConsent, (error) => setProblem(sentence(error)));
  }, []);
  if (problem) {
    return (
      <Entrance title="This app cannot be let in" lead={problem}>
        <p class="hint">Nothing was given to it. Tell whoever made the app.</p>
        <a class="button button-wide" href="/">
          To the chat
        </a>
      </Entrance>
    );
  }
  if (!consent) {
    return (
      <Entrance title="An app asks">
        <div class="skeleton skeleton-line" />
      </Entrance>
    );
  }
  return (
    <Question
      consent={consent}
      answer={async (approve) => {
        const url = await app.access.giveConsent(request, approve);
        location.assign(url);
      }}
    />
  );
}

/** Where somebody lets a device in, by the code that it shows. */
export function DevicePage() {
  const app = useApp();
  const [code, setCode] = useState(() => new URLSearchParams(location.search).get("user_code") ?? "");
  const [consent, setConsent] = useState<Consent | null>(null);
  const [done, setDone] = useState<boolean | null>(null);
  const form = useForm(async () => setConsent(await app.access.consent({ user_code: code })), ["user_code"]);
  if (done !== null) {
    return (
      <Entrance
        title={done ? "The device is in" : "The device stays out"}
        lead={done ? "Go back to it: it goes on by itself." : "Nothing was given to it."}
      >
        <a class="button button-primary button-wide" href="/">
          To the chat
        </a>
      </Entrance>
    );
  }
  if (consent) {
    return (
      <Question
        consent={consent}
        answer={async (approve) => {
          await app.access.giveConsent({ user_code: code }, approve);
          setDone(approve);
        }}
      />
    );
  }
  return (
    <Entrance title="Let a device in" lead="Type the code that the device in front of you shows.">
      <form class="form" onSubmit={form.onSubmit}>
        <Field
          label="Code of the device"
          value={code}
          onValue={setCode}
          error={form.errorOf("user_code")}
          hint="Eight letters. Did somebody send you a code? Then do not type it."
          name="user_code"
          autoComplete="off"
          autoCapitalize="characters"
          spellcheck={false}
          maxLength={16}
          required
          autoFocus
        />
        <FormError text={form.error} />
        <button type="submit" class="button button-primary button-wide" aria-disabled={form.isBusy}>
          {form.isBusy ? "Looking…" : "Continue"}
        </button>
      </form>
    </Entrance>
  );
}

function Question({ consent, answer }: { consent: Consent; answer: (approve: boolean) => Promise<void> }) {
  const me = useChat().me.value;
  const { confirmed, question } = useConfirmed();
  const yes = useForm(() => confirmed(() => answer(true)));
  const no = useForm(() => answer(false));
  return (
    <Entrance
      title={`Let ${consent.name} in?`}
      lead={
        <>
          You are <strong>@{me.username}</strong>. This app will be able to:
        </>
      }
    >
      <ul class="scopes" aria-label="What the app may do">
        {consent.scopes.map((scope) => (
          <li key={scope.name}>
            <Icon name="check" size={18} />
            <span>{scope.words}</span>
          </li>
        ))}
      </ul>
      <p class="hint">
        {consent.redirect_host ? (
          <>
            You go on to <strong>{consent.redirect_host}</strong>.
          </>
        ) : (
          "Only go on if you began this yourself, on a device in front of you."
        )}{" "}
        You can let it out again in Settings.
      </p>
      <div class="form consent-actions">
        <FormError text={yes.error ?? no.error} />
        <button
          type="button"
          class="button button-primary button-wide"
          aria-disabled={yes.isBusy}
          onClick={yes.onSubmit}
        >
          Let it in
        </button>
        <button type="button" class="button button-wide" aria-disabled={no.isBusy} onClick={no.onSubmit}>
          No
        </button>
      </div>
      {question}
    </Entrance>
  );
}
