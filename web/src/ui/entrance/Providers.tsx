import { useEffect, useState } from "preact/hooks";
import type { SignInProvider } from "../../protocol/messages";
import { useApp } from "../context";
import { Icon } from "../icons";
import { useForm } from "../parts/useForm";
import { FormError } from "./Entrance";

/** A button for each provider whose accounts open this server; nothing where there is none. */
export function Providers({ invitation = "", verb }: { invitation?: string; verb: string }) {
  const app = useApp();
  const [providers, setProviders] = useState<readonly SignInProvider[]>([]);
  useEffect(() => {
    app.access.providers().then(setProviders, () => {});
  }, []);
  if (!providers.length) return null;
  return (
    <div class="providers">
      <p class="divider">
        <span>or</span>
      </p>
      {providers.map((provider) => (
        <ProviderButton key={provider.id} provider={provider} invitation={invitation} verb={verb} />
      ))}
    </div>
  );
}

function ProviderButton({
  provider,
  invitation,
  verb,
}: {
  provider: SignInProvider;
  invitation: string;
  verb: string;
}) {
  const app = useApp();
  const form = useForm(() => app.access.leaveToSignIn(provider.id, invitation));
  return (
    <>
      <button type="button" class="button button-wide" aria-disabled={form.isBusy} onClick={form.onSubmit}>
        <Icon name="users" size={18} /> {verb} {provider.name}
      </button>
      <FormError text={form.error} />
    </>
  );
}
