/** What stands for a message that is answered: one line of it. */

const QUOTE_CHARS = 120;

/** Return the beginning of a text in one line, without its markup. */
export function quote(text: string): string {
  const line = text.replace(/```\w*|[`*~]+/g, "").replace(/\s+/g, " ");
  const characters = [...line];
  return characters.length > QUOTE_CHARS ? `${characters.slice(0, QUOTE_CHARS).join("")}…` : line;
}
