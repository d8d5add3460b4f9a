/** The one table of keys: the handlers look here, and so does the dialog that lists them. */

export type Action =
  | "switcher"
  | "shortcuts"
  | "room.previous"
  | "room.next"
  | "unread.previous"
  | "unread.next"
  | "info"
  | "list.up"
  | "list.down"
  | "list.first"
  | "list.last"
  | "list.reply"
  | "list.edit"
  | "list.react"
  | "list.delete"
  | "list.copy"
  | "list.composer"
  | "composer.send"
  | "composer.newline"
  | "composer.editLast"
  | "composer.cancel";

/** `everywhere` holds with any focus, `list` only in the message list (WCAG 2.1.4), `composer` only in the composer. */
export type Place = "everywhere" | "list" | "composer";

export interface Binding {
  action: Action;
  place: Place;
  /** Any of these; `Mod` is Ctrl, or Cmd on a Mac. */
  keys: readonly string[];
  text: string;
}

export const KEYMAP: readonly Binding[] = [
  { action: "switcher", place: "everywhere", keys: ["Mod+K"], text: "Go to a room or person" },
  { action: "room.previous", place: "everywhere", keys: ["Alt+ArrowUp"], text: "Previous room" },
  { action: "room.next", place: "everywhere", keys: ["Alt+ArrowDown"], text: "Next room" },
  { action: "unread.previous", place: "everywhere", keys: ["Alt+Shift+ArrowUp"], text: "Previous unread room" },
  { action: "unread.next", place: "everywhere", keys: ["Alt+Shift+ArrowDown"], text: "Next unread room" },
  { action: "info", place: "everywhere", keys: ["Mod+."], text: "Show or hide the room's details" },
  { action: "shortcuts", place: "everywhere", keys: ["Mod+/"], text: "Show this list" },
  { action: "shortcuts", place: "list", keys: ["?"], text: "Show this list" },
  { action: "list.up", place: "list", keys: ["ArrowUp", "k"], text: "Message before" },
  { action: "list.down", place: "list", keys: ["ArrowDown", "j"], text: "Message after" },
  { action: "list.first", place: "list", keys: ["Home"], text: "First message shown" },
  { action: "list.last", place: "list", keys: ["End", "g"], text: "Newest message" },
  { action: "list.reply", place: "list", keys: ["r"], text: "Reply" },
  { action: "list.edit", place: "list", keys: ["e"], text: "Edit your message" },
  { action: "list.react", place: "list", keys: ["+"], text: "React" },
  { action: "list.delete", place: "list", keys: ["Delete"], text: "Delete your message" },
  { action: "list.copy", place: "list", keys: ["c"], text: "Copy the text" },
  { action: "list.composer", place: "list", keys: ["Escape"], text: "Go to the newest message and write" },
  { action: "composer.send", place: "composer", keys: ["Enter"], text: "Send" },
  { action: "composer.newline", place: "composer", keys: ["Shift+Enter"], text: "New line" },
  { action: "composer.editLast", place: "composer", keys: ["ArrowUp"], text: "Edit your last message, when empty" },
  { action: "composer.cancel", place: "composer", keys: ["Escape"], text: "Cancel a reply or an edit" },
];

export interface KeyLike {
  key: string;
  ctrlKey: boolean;
  metaKey: boolean;
  altKey: boolean;
  shiftKey: boolean;
  isComposing?: boolean;
  keyCode?: number;
}

/** Return whether an input method is still composing; Safari tells it by the key code only. */
export function isComposing(event: KeyLike): boolean {
  return event.isComposing === true || event.keyCode === 229;
}

function matches(event: KeyLike, keys: string): boolean {
  const parts = keys.split("+").filter(Boolean);
  const key = keys.endsWith("+") ? "+" : (parts.pop() as string);
  const has = (name: string) => parts.includes(name);
  if (has("Mod") !== (event.ctrlKey || event.metaKey) || has("Alt") !== event.altKey) return false;
  // A sign such as "?" or "+" may need Shift on this keyboard; letters and named keys mean it.
  const isSign = key.length === 1 && key.toLowerCase() === key.toUpperCase();
  if (!isSign && has("Shift") !== event.shiftKey) return false;
  return event.key.toLowerCase() === key.toLowerCase();
}

/** Return what a key press means in a place, or null. */
export function actionOf(event: KeyLike, place: Place): Action | null {
  if (isComposing(event)) return null;
  const found = KEYMAP.find((binding) => binding.place === place && binding.keys.some((keys) => matches(event, keys)));
  return found?.action ?? null;
}

/** Return the keys as they are written for people. */
export function labelOf(keys: string, isMac: boolean): string {
  return keys
    .replace("Mod", isMac ? "⌘" : "Ctrl")
    .replace("ArrowUp", "↑")
    .replace("ArrowDown", "↓")
    .replace("Escape", "Esc")
    .replace(/^[a-z]$/, (letter) => letter.toUpperCase());
}
