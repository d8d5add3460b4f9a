/** Which dialog is open: one at a time. */

import { type Signal, signal } from "@preact/signals";

export type Layer =
  | { name: "switcher" }
  | { name: "shortcuts" }
  | { name: "settings" }
  | { name: "connection" }
  | { name: "create" }
  | { name: "browse" }
  | { name: "direct" }
  | { name: "invite"; rooms: readonly string[] }
  | { name: "add"; room: string }
  | { name: "rename"; room: string };

export const layer: Signal<Layer | null> = signal(null);

export function closeLayer(): void {
  layer.value = null;
}
