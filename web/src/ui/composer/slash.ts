/** What a text that begins with / means: a command of a bot, a slip of the fingers, or words. The terminal reads it alike. */

/** What looks like a command: `/etc/hosts` does not. */
const COMMAND = /^\/([a-z][a-z0-9_-]*)(?=\s|$)/i;

/** Return the command that a text would call, or null. */
export function commandIn(body: string): string | null {
  return COMMAND.exec(body)?.[1] ?? null;
}

/** Return the text to send: `//word` is how one writes `/word` to people. */
export function unescaped(body: string): string {
  return body.startsWith("//") && commandIn(body.slice(1)) ? body.slice(1) : body;
}
