/** Light, dark, or as the system says. */

import { type Signal, signal } from "@preact/signals";
import { recall, remember } from "../client/memory";

export type Theme = "system" | "light" | "dark";

const KEY = "securechat-theme";

function stored(): Theme {
  const value = recall(KEY);
  return value === "light" || value === "dark" ? value : "system";
}

export const theme: Signal<Theme> = signal("system");

function apply(value: Theme): void {
  theme.value = value;
  if (value === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = value;
}

export function loadTheme(): void {
  apply(stored());
}

export function chooseTheme(value: Theme): void {
  apply(value);
  remember(KEY, value);
}
