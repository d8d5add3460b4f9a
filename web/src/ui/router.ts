/** The address bar as a signal. */

import { type Signal, signal } from "@preact/signals";
import { readFragment } from "../client/knownServer";

export type Route =
  | { name: "home" }
  | { name: "room"; room: string }
  | { name: "login" }
  | { name: "setup"; token: string }
  | { name: "invite"; code: string }
  | { name: "reset"; token: string }
  | { name: "oidc"; provider: string }
  | { name: "authorize" }
  | { name: "device" }
  | { name: "nowhere" };

/** Return the route of an address. */
export function routeOf(path: string, fragment: string): Route {
  const token = readFragment(fragment).get("t") ?? "";
  const [, head = "", rest = ""] = path.split("/");
  switch (head) {
    case "login":
      return { name: "login" };
    case "setup":
      return { name: "setup", token };
    case "reset":
      return { name: "reset", token };
    case "oidc":
      return rest ? { name: "oidc", provider: decodeURIComponent(rest) } : { name: "nowhere" };
    case "oauth":
      return rest === "authorize" ? { name: "authorize" } : { name: "nowhere" };
    case "device":
      return { name: "device" };
    case "i":
      return rest ? { name: "invite", code: decodeURIComponent(rest) } : { name: "nowhere" };
    case "r":
      return rest ? { name: "room", room: decodeURIComponent(rest) } : { name: "nowhere" };
    case "":
      return { name: "home" };
    default:
      return { name: "nowhere" };
  }
}

const here = () => routeOf(location.pathname, location.hash);

export const route: Signal<Route> = signal(here());

addEventListener("popstate", () => {
  route.value = here();
});

/** Go to an address of this client. */
export function navigate(path: string, replace = false): void {
  if (path === location.pathname) return;
  history[replace ? "replaceState" : "pushState"](null, "", path);
  route.value = here();
}

export const roomPath = (id: string) => `/r/${encodeURIComponent(id)}`;

/** Follow a link inside the client without loading the page again; let the browser do what it does with other clicks. */
export function follow(event: MouseEvent, path: string): void {
  if (
    event.defaultPrevented ||
    event.button !== 0 ||
    event.metaKey ||
    event.ctrlKey ||
    event.shiftKey ||
    event.altKey
  ) {
    return;
  }
  event.preventDefault();
  navigate(path);
}
