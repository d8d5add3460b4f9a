/** What could be meant by the word before the cursor: a bot's command or a person. */

import type { BotCommand, User } from "../../protocol/messages";

export interface Option {
  key: string;
  /** What is put into the text. */
  insert: string;
  label: string;
  hint: string;
}

export interface Trigger {
  kind: "command" | "mention";
  query: string;
  /** Where the word begins and ends. */
  start: number;
  end: number;
}

const MOST = 8;

/** Return the word that asks for completion, or null. */
export function triggerAt(text: string, cursor: number): Trigger | null {
  const before = text.slice(0, cursor);
  const command = /^\/([a-z0-9_-]*)$/i.exec(before);
  if (command) return { kind: "command", query: (command[1] as string).toLowerCase(), start: 0, end: cursor };
  const mention = /(?:^|[\s(])@([a-z0-9._-]{0,32})$/i.exec(before.slice(-40));
  if (!mention) return null;
  const query = (mention[1] as string).toLowerCase();
  return { kind: "mention", query, start: cursor - query.length - 1, end: cursor };
}

/** Return how a command is called: `/roll dice [sides]`. */
export function usageOf(command: BotCommand): string {
  const words = command.options.map((option) => (option.required ? option.name : `[${option.name}]`));
  return ["", ...words].join(" ");
}

function rank(text: string, query: string): number {
  const at = text.toLowerCase().indexOf(query);
  return at < 0 ? 9 : at === 0 ? 0 : 1;
}

function best<T>(all: readonly T[], query: string, words: (one: T) => string[]): T[] {
  return all
    .map((one) => ({ one, rank: Math.min(...words(one).map((word) => rank(word, query))) }))
    .filter((found) => found.rank < 9)
    .sort((a, b) => a.rank - b.rank)
    .slice(0, MOST)
    .map((found) => found.one);
}

export function commandOptions(commands: readonly BotCommand[], query: string): Option[] {
  return best(commands, query, (command) => [command.name]).map((command) => ({
    key: `${command.bot}/${command.name}`,
    insert: `/${command.name} `,
    label: `/${command.name}${usageOf(command)}`,
    hint: command.description,
  }));
}

export function mentionOptions(people: readonly User[], query: string): Option[] {
  return best(people, query, (user) => [user.username, user.display_name]).map((user) => ({
    key: user.id,
    insert: `@${user.username} `,
    label: user.display_name || user.username,
    hint: `@${user.username}`,
  }));
}

/** Return whether the word is complete: then Enter sends it. */
export function isComplete(trigger: Trigger, options: readonly Option[]): boolean {
  const word = trigger.kind === "command" ? `/${trigger.query}` : `@${trigger.query}`;
  return options.some((option) => option.insert.trim() === word);
}
