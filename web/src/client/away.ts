/** What this tab keeps while the browser is at a sign-in provider. In the tab only: an answer that comes elsewhere fits nothing. */

const KEY = "securechat-away";

export interface Away {
  provider: string;
  state: string;
  ticket: string;
  /** To sign in (perhaps with an invitation), or to link an account of somebody who is in. */
  what: "login" | "link";
  invitation: string;
  /** Where one was: a path of this client. */
  back: string;
}

export function remember(away: Away): void {
  sessionStorage.setItem(KEY, JSON.stringify(away));
}

/** Take what was kept, once. */
export function recall(): Away | null {
  const text = sessionStorage.getItem(KEY);
  sessionStorage.removeItem(KEY);
  try {
    const away = text === null ? null : (JSON.parse(text) as Away);
    return away && typeof away.ticket === "string" && away.back.startsWith("/") && !away.back.startsWith("//")
      ? away
      : null;
  } catch {
    return null;
  }
}
