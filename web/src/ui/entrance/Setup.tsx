import { useState } from "preact/hooks";
import { useApp } from "../context";
import { Field } from "../parts/Field";
import { useForm } from "../parts/useForm";
import { navigate } from "../router";
import { ACCOUNT_FIELDS, AccountFields, EMPTY_ACCOUNT } from "./AccountFields";
import { Entrance, FormError } from "./Entrance";

export function Setup({ token }: { token: string }) {
  const app = useApp();
  const [account, setAccount] = useState(EMPTY_ACCOUNT);
  const [serverName, setServerName] = useState("");
  const form = useForm(async () => {
    await app.setup(account, token, serverName);
    navigate("/", true);
  }, [...ACCOUNT_FIELDS, "server_name"]);
  if (!app.isUnnamed) {
    return (
      <Entrance title="This server is set up already" lead="A setup link works once. People come in by invitation.">
        <a class="button button-wide" href="/login">
          Sign in instead
        </a>
      </Entrance>
    );
  }
  if (!token) {
    return (
      <Entrance
        title="Set up this server"
        lead="This page needs the link that the server printed when it started for the first time. Open that link."
      />
    );
  }
  return (
    <Entrance title="Set up this server" lead="Create the first account. It owns the server and can invite others.">
      <form class="form" onSubmit={form.onSubmit}>
        <Field
          label="Name of the server"
          value={serverName}
          onValue={setServerName}
          error={form.errorOf("server_name")}
          hint="What people see at the top, for example the name of your group."
          name="server_name"
          autoComplete="organization"
          maxLength={64}
          required
          autoFocus
        />
        <AccountFields account={account} onAccount={setAccount} errorOf={form.errorOf} />
        <FormError text={form.error} />
        <button type="submit" class="button button-primary button-wide" aria-disabled={form.isBusy}>
          {form.isBusy ? "Creating…" : "Create server"}
        </button>
      </form>
    </Entrance>
  );
}
