/** One quiet line about the connection: nothing for three seconds, then what is going on and what one can do. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { Link } from "../../client/connection";
import { useChat } from "../context";

const SILENT_MS = 3_000;

const REFUSED = {
  wrong_host: "The server does not know itself by this address. Use the address that its people gave you.",
  update_needed: "This page and the server have no way of sealing in common. Load the page again to update it.",
};

/** Return what the banner says, or null for none. */
export function bannerText(
  link: Link,
  offlineMs: number,
  now: number,
  isCatchingUp: boolean,
  isNetworkOff: boolean,
  isComplete = true,
) {
  if (link.phase === "stopped") {
    if (link.reason === "replaced") return "SecureChat was opened in another place, so it stopped here.";
    if (link.reason === "protocol") {
      return "What arrives here is not what the server sends, or this page is too old for it. Load the page again; if that does not help, tell the people who run the server.";
    }
    if (link.reason === "wrong_host" || link.reason === "update_needed") return REFUSED[link.reason];
    return null;
  }
  // The browser knows at once; the connection notices only when nothing comes any more.
  if (isNetworkOff) return "You are offline. Messages are sent when you are back.";
  if (link.phase === "online") {
    if (isCatchingUp) return "Back online - catching up…";
    return isComplete ? null : "Some rooms cannot be reached right now. The others work.";
  }
  if (offlineMs < SILENT_MS) return null;
  if (link.phase === "waiting") {
    const seconds = Math.max(0, Math.ceil((link.retryAt - now) / 1_000));
    if (link.because) return `${REFUSED[link.because]} Retrying in ${seconds}\u00a0s`;
    if (link.calm) return `The server is restarting - back in ${seconds}\u00a0s`;
    return `Connection lost - retrying in ${seconds}\u00a0s`;
  }
  return "Connection lost - connecting…";
}

/** Return whether there is no network. A server on this machine needs none. */
function networkOff(): boolean {
  return !navigator.onLine && !["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
}

export function Banner() {
  const chat = useChat();
  const link = chat.connection.value;
  const since = chat.offlineSince.value;
  const tick = useSignal(0);
  const isNetworkOff = useSignal(networkOff());
  useEffect(() => {
    const look = () => {
      isNetworkOff.value = networkOff();
    };
    addEventListener("online", look);
    addEventListener("offline", look);
    return () => {
      removeEventListener("online", look);
      removeEventListener("offline", look);
    };
  }, [isNetworkOff]);
  useEffect(() => {
    if (since === null) return;
    const timer = setInterval(() => {
      tick.value += 1;
    }, 500);
    return () => clearInterval(timer);
  }, [since]);
  void tick.value;
  const now = Date.now();
  const text = bannerText(
    link,
    since === null ? 0 : now - since,
    now,
    chat.isCatchingUp.value,
    isNetworkOff.value,
    chat.isComplete.value,
  );
  return (
    <div class="banner-slot" role="status" aria-label="Connection">
      {text && (
        <div
          class={link.phase === "online" || (link.phase === "waiting" && link.calm) ? "banner banner-calm" : "banner"}
        >
          <span>{text}</span>
          {link.phase === "waiting" && (
            <button type="button" onClick={() => chat.retryNow()}>
              Retry now
            </button>
          )}
          {link.phase === "stopped" && (
            <button type="button" onClick={() => location.reload()}>
              Load again
            </button>
          )}
        </div>
      )}
    </div>
  );
}
