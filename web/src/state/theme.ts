/** Light, dark, or as the system says. */

import { type Signal, signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";

const KEY = "securechat-theme";

function stored(): Theme {
  try {
    const value = localStorage.getItem(KEY);
    if (value === "light" || value === "dark") return value;
  } catch {
    // Storage may be switched off; the system's choice is a good one.
  }
  return "system";
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
  try {
    localStorage.setItem(KEY, value);
  } catch {
    // It holds for this visit.
  }
}
