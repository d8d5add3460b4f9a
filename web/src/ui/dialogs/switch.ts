/** What the quick switcher finds: rooms and people, by letters in their order. */

export interface Target {
  key: string;
  title: string;
  hint: string;
  /** Higher comes first when all else is the same. */
  weight: number;
}

/** Return how well a title matches, lower is better, or null for not at all. */
export function scoreOf(title: string, query: string): number | null {
  const text = title.toLowerCase();
  const at = text.indexOf(query);
  if (at === 0) return 0;
  if (at > 0) return /[\s._-]/.test(text[at - 1] as string) ? 1 : 2;
  let from = 0;
  for (const char of query) {
    from = text.indexOf(char, from) + 1;
    if (!from) return null;
  }
  return 3;
}

/** Return the best of the targets. */
export function search<T extends Target>(targets: readonly T[], query: string, most: number): T[] {
  const wanted = query.trim().toLowerCase().replace(/^[#@]/, "");
  const scored: { target: T; score: number }[] = [];
  for (const target of targets) {
    const scores = [scoreOf(target.title, wanted), scoreOf(target.hint, wanted)].filter((score) => score !== null);
    if (scores.length) scored.push({ target, score: Math.min(...scores) });
  }
  scored.sort((a, b) => a.score - b.score || b.target.weight - a.target.weight);
  return scored.slice(0, most).map((one) => one.target);
}
