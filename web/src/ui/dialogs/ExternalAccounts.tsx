import { useEffect, useState } from "preact/hooks";
import type { ExternalAccount, SignInProvider } from "../../protocol/messages";
import { useApp, useChat } from "../context";
import { Icon } from "../icons";
import { shortTimeOf } from "../when";

interface Props {
  /** Do something dangerous, after asking who it is. */
  act: (work: () => Promise<void>) => Promise<void>;
}

/** Rows of the list of ways to sign in: accounts at providers. */
export function ExternalAccounts({ act }: Props) {
  const app = useApp();
  const chat = useChat();
  const [externals, setExternals] = useState<readonly ExternalAccount[]>([]);
  const [providers, setProviders] = useState<readonly SignInProvider[]>([]);
  const load = async () => setExternals(await app.access.externals());
  useEffect(() => {
    app.access.providers().then(setProviders, () => {});
    void chat.attempt(load());
  }, []);
  return (
    <>
      {externals.map((each) => (
        <li key={each.id}>
          <Icon name="users" />
          <span class="choice-names">
            <span class="choice-name">{each.provider}</span>
            <span class="hint">
              {[each.name, each.last_used_at ? `last used ${shortTimeOf(each.last_used_at)}` : "not used yet"].join(
                " · ",
              )}
            </span>
          </span>
          <button
            type="button"
            class="button"
            aria-label={`Unlink ${each.provider}`}
            onClick={() =>
              void act(async () => {
                await app.access.removeExternal(each.id);
                await load();
              })
            }
          >
            Unlink
          </button>
        </li>
      ))}
      {providers.map((provider) => (
        <li key={provider.id}>
          <Icon name="users" />
          <span class="choice-names">
            <span class="choice-name">{provider.name}</span>
            <span class="hint">Sign in with an account there.</span>
          </span>
          <button
            type="button"
            class="button"
            aria-label={`Link an account: ${provider.name}`}
            onClick={() => void act(() => app.access.leaveToLink(provider.id))}
          >
            Link
          </button>
        </li>
      ))}
    </>
  );
}
