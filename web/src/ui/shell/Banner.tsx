/** One quiet line about the connection: nothing for three seconds, then what is going on and what one can do. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { Link } from "../../client/connection";
import { useChat } from "../context";

const SILENT_MS = 3_000;

/** Return what the banner says, or null for none. */
export function bannerText(link: Link, offlineMs: number, now: number, isCatchingUp: boolean, isNetworkOff: boolean) {
  if (link.phase === "stopped") {
    if (link.reason === "replaced") return "SecureChat was opened in another place, so it stopped here.";
    if (link.reason === "protocol")
      return "This page and the server do not understand each other. Load the page again.";
    return null;
  }
  if (link.phase === "online") return isCatchingUp ? "Back online - catching up…" : null;
  if (offlineMs < SILENT_MS) return null;
  if (link.phase === "waiting") {
    const seconds = Math.max(0, Math.ceil((link.retryAt - now) / 1_000));
    if (isNetworkOff) return "You are offline. Messages are sent when you are back.";
    if (link.calm) return `The server is restarting - back in ${seconds}\u00a0s`;
    return `Connection lost - retrying in ${seconds}\u00a0s`;
  }
  return "Connection lost - connecting…";
}

export function Banner() {
  const chat = useChat();
  const link = chat.connection.value;
  const since = chat.offlineSince.value;
  const tick = useSignal(0);
  useEffect(() => {
    if (since === null) return;
    const timer = setInterval(() => {
      tick.value += 1;
    }, 500);
    return () => clearInterval(timer);
  }, [since]);
  void tick.value;
  const now = Date.now();
  const text = bannerText(link, since === null ? 0 : now - since, now, chat.isCatchingUp.value, !navigator.onLine);
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
