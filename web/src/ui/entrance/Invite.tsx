import { useEffect, useState } from "preact/hooks";
import { Refused, sentence } from "../../client/problem";
import type { Invitation } from "../../protocol/messages";
import { useApp } from "../context";
import { useForm } from "../parts/useForm";
import { navigate } from "../router";
import { ACCOUNT_FIELDS, AccountFields, EMPTY_ACCOUNT } from "./AccountFields";
import { Entrance, FormError } from "./Entrance";
import { Providers } from "./Providers";

type State = { invitation: Invitation } | { problem: string; isGone: boolean } | null;

export function Invite({ code }: { code: string }) {
  const app = useApp();
  const [state, setState] = useState<State>(null);
  const [attempt, setAttempt] = useState(0);
  useEffect(() => {
    setState(null);
    app.invitation(code).then(
      (invitation) => setState({ invitation }),
      (error) => setState({ problem: sentence(error), isGone: error instanceof Refused }),
    );
  }, [code, attempt]);
  if (!state) {
    return (
      <Entrance title="Invitation">
        <div class="skeleton skeleton-line" />
        <div class="skeleton skeleton-line skeleton-short" />
      </Entrance>
    );
  }
  if ("problem" in state) {
    return (
      <Entrance
        title={state.isGone ? "This invitation does not work" : "The server cannot be reached"}
        lead={
          state.isGone ? "It was used up, it expired, or the link is not complete. Ask for a new one." : state.problem
        }
      >
        {state.isGone ? (
          <a class="button button-wide" href="/login">
            Sign in instead
          </a>
        ) : (
          <button type="button" class="button button-wide" onClick={() => setAttempt(attempt + 1)}>
            Try again
          </button>
        )}
      </Entrance>
    );
  }
  return <Register code={code} invitation={state.invitation} />;
}

function Register({ code, invitation }: { code: string; invitation: Invitation }) {
  const app = useApp();
  const [account, setAccount] = useState(EMPTY_ACCOUNT);
  const form = useForm(async () => {
    await app.register(account, code);
    navigate("/", true);
  }, ACCOUNT_FIELDS);
  return (
    <Entrance
      title={`Join ${invitation.server_name}`}
      lead={
        invitation.invited_by ? (
          <>
            <strong>{invitation.invited_by}</strong> invited you.
          </>
        ) : (
          "You are invited."
        )
      }
    >
      {invitation.rooms.length > 0 && (
        <ul class="chips" aria-label="Rooms of this invitation">
          {invitation.rooms.map((room) => (
            <li key={room} class="chip">
              # {room}
            </li>
          ))}
        </ul>
      )}
      <form class="form" onSubmit={form.onSubmit}>
        <AccountFields account={account} onAccount={setAccount} errorOf={form.errorOf} />
        <FormError text={form.error} />
        <button type="submit" class="button button-primary button-wide" aria-disabled={form.isBusy}>
          {form.isBusy ? "Creating…" : "Create account"}
        </button>
      </form>
      <Providers invitation={code} verb="Join with" />
      <p class="aside">
        Have an account? <a href="/login">Sign in</a>
      </p>
    </Entrance>
  );
}
