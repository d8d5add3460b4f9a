import { useEffect, useState } from "preact/hooks";
import { Refused, sentence } from "../../client/problem";
import type { Grant, PersonalToken } from "../../protocol/messages";
import { SCOPES } from "../../state/access";
import { useApp, useChat } from "../context";
import { FormError } from "../entrance/Entrance";
import { Icon } from "../icons";
import { Field } from "../parts/Field";
import { LinkBox } from "../parts/LinkBox";
import { useForm } from "../parts/useForm";
import { useConfirmed } from "../security/Confirmed";
import { shortTimeOf } from "../when";

/** The section for apps that one has let in, and for tokens of one's own. */
export function AppsAndTokens() {
  const app = useApp();
  const chat = useChat();
  const [grants, setGrants] = useState<readonly Grant[]>([]);
  const [tokens, setTokens] = useState<readonly PersonalToken[]>([]);
  const [name, setName] = useState("");
  const [scopes, setScopes] = useState<ReadonlySet<string>>(new Set(["profile"]));
  const [secret, setSecret] = useState("");
  const { confirmed, question } = useConfirmed();
  const load = async () => {
    setGrants(await app.access.grants());
    setTokens(await app.access.tokens());
  };
  useEffect(() => {
    void chat.attempt(load());
  }, []);
  const form = useForm(async () => {
    setSecret(await confirmed(() => app.access.createToken(name.trim(), [...scopes], 90)));
    setName("");
    await load();
  }, ["name", "scopes"]);
  const end = async (work: Promise<void>) => {
    try {
      await work;
      await load();
    } catch (error) {
      if (error instanceof Refused) chat.tell(sentence(error), true);
      else throw error;
    }
  };
  const toggle = (scope: string) => {
    const next = new Set(scopes);
    if (!next.delete(scope)) next.add(scope);
    setScopes(next);
  };
  return (
    <section aria-labelledby="settings-apps">
      <h3 id="settings-apps">Apps and tokens</h3>
      {!grants.length && !tokens.length && <p class="hint">No app is let in, and there is no token.</p>}
      {grants.length + tokens.length > 0 && (
        <ul class="plain-list" aria-label="Apps and tokens">
          {grants.map((grant) => (
            <li key={grant.app}>
              <Icon name="device" />
              <span class="choice-names">
                <span class="choice-name">{grant.name}</span>
                <span class="hint">{`App · last seen ${shortTimeOf(grant.last_seen_at)} · ${grant.scopes.join(", ")}`}</span>
              </span>
              <button
                type="button"
                class="button"
                aria-label={`Let out ${grant.name}`}
                onClick={() => void end(app.access.revokeGrant(grant.app))}
              >
                Let out
              </button>
            </li>
          ))}
          {tokens.map((token) => (
            <li key={token.id}>
              <Icon name="key" />
              <span class="choice-names">
                <span class="choice-name">{token.name}</span>
                <span class="hint">{`Token · until ${shortTimeOf(token.expires_at)} · ${token.scopes.join(", ")}`}</span>
              </span>
              <button
                type="button"
                class="button"
                aria-label={`Revoke ${token.name}`}
                onClick={() => void end(app.access.revokeToken(token.id))}
              >
                Revoke
              </button>
            </li>
          ))}
        </ul>
      )}
      {secret && (
        <>
          <p class="hint" role="status">
            The token is shown once: copy it now. It holds for 90 days.
          </p>
          <LinkBox label="Your new token" text={secret} />
        </>
      )}
      <form class="form" onSubmit={form.onSubmit}>
        <Field
          label="Name of a new token"
          value={name}
          onValue={setName}
          error={form.errorOf("name")}
          hint="For a program of your own."
          autoComplete="off"
          maxLength={64}
          required
        />
        <fieldset class="checks">
          <legend>It may</legend>
          {SCOPES.map(([scope, words]) => (
            <label key={scope}>
              <input type="checkbox" checked={scopes.has(scope)} onChange={() => toggle(scope)} /> {words}
            </label>
          ))}
        </fieldset>
        <FormError text={form.error ?? form.errorOf("scopes") ?? null} />
        <div>
          <button type="submit" class="button" aria-disabled={form.isBusy}>
            Create token
          </button>
        </div>
      </form>
      {question}
    </section>
  );
}
