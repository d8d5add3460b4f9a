/** Small things that a browser remembers between visits and may lose without harm. */

/** Return what is remembered: null for nothing, undefined when this browser's storage is switched off. */
export function recall(key: string): string | null | undefined {
  try {
    return localStorage.getItem(key);
  } catch {
    return undefined;
  }
}

/** Remember something, or with null forget it. */
export function remember(key: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, value);
  } catch {
    // It holds for this visit.
  }
}
