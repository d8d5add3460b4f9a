/** A round sign for a person: initials on one of twelve grounds, each readable in both themes. */

const HUES = 12;

function hueOf(id: string): number {
  let hash = 0;
  for (const char of id) hash = (hash * 31 + char.charCodeAt(0)) >>> 0;
  return hash % HUES;
}

/** Return one or two letters. */
export function initialsOf(name: string): string {
  const words = name
    .trim()
    .split(/[\s._-]+/u)
    .filter(Boolean);
  const letters = words.length > 1 ? [words[0], words.at(-1)] : [words[0]];
  return letters
    .map((word) => Array.from(word ?? "?")[0] ?? "?")
    .join("")
    .toUpperCase();
}

interface Props {
  id: string;
  name: string;
  size?: "small" | "medium" | "large";
  /** Draws the presence dot; undefined for none. */
  isOnline?: boolean;
}

export function Avatar({ id, name, size = "medium", isOnline }: Props) {
  return (
    <span class={`avatar avatar-${size} hue-${hueOf(id)}`} aria-hidden="true">
      {initialsOf(name)}
      {isOnline !== undefined && <span class={isOnline ? "presence presence-online" : "presence"} />}
    </span>
  );
}
