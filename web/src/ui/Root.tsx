/** Which screen is shown. */

import { useEffect } from "preact/hooks";
import type { App } from "../state/app";
import { AppContext, ChatContext } from "./context";
import { Authorize, DevicePage } from "./entrance/ConsentPage";
import { Enrol } from "./entrance/Enrol";
import { Entrance } from "./entrance/Entrance";
import { Invite } from "./entrance/Invite";
import { Login } from "./entrance/Login";
import { Reset } from "./entrance/Reset";
import { Returned } from "./entrance/Returned";
import { Setup } from "./entrance/Setup";
import { Logo } from "./icons";
import { layer } from "./layer";
import { navigate, route } from "./router";
import { Shell } from "./shell/Shell";

export function Root({ app }: { app: App }) {
  return (
    <AppContext.Provider value={app}>
      <CurrentScreen app={app} />
    </AppContext.Provider>
  );
}

function CurrentScreen({ app }: { app: App }) {
  const screen = app.screen.value;
  const here = route.value;
  useEffect(() => {
    if (screen.kind === "chat" && here.name === "login") navigate("/", true);
    if (screen.kind === "signed_out" || screen.kind === "enrol") layer.value = null;
  }, [screen.kind, here.name]);
  if (screen.kind === "enrol") return <Enrol />;
  if (here.name === "setup") return <Setup token={here.token} />;
  if (here.name === "invite") return <Invite key={here.code} code={here.code} />;
  if (here.name === "oidc" && screen.kind !== "loading" && screen.kind !== "unreachable") {
    return <Returned provider={here.provider} />;
  }
  if (here.name === "reset") return <Reset token={here.token} />;
  switch (screen.kind) {
    case "loading":
      return (
        <main class="splash" aria-label="SecureChat" aria-busy="true">
          <Logo size={56} />
        </main>
      );
    case "unreachable":
      return (
        <Entrance
          title="The server cannot be reached"
          lead="Trying again in a moment. Your drafts and unsent messages are safe."
        >
          <button type="button" class="button button-primary button-wide" onClick={() => void app.restore()}>
            Try now
          </button>
        </Entrance>
      );
    case "signed_out":
      return <Login wasIn={screen.wasIn} />;
    case "chat":
      return (
        <ChatContext.Provider value={screen.chat}>
          {here.name === "authorize" ? (
            <Authorize />
          ) : here.name === "device" ? (
            <DevicePage />
          ) : (
            <Shell key={screen.chat.device} />
          )}
        </ChatContext.Provider>
      );
  }
}
