/** Attack 27 and what nobody thought of: texts made at random, from a seed that is told. SECURECHAT_FUZZ_S: for how many seconds. */
import { cpuUsage } from "node:process";
import { expect, it } from "vitest";
import { type Block, type Inline, parse } from "../src/ui/markdown";

declare const process: { env: Record<string, string | undefined> };

const SECONDS = Number(process.env.SECURECHAT_FUZZ_S ?? "2");
const SEED = Number(process.env.SECURECHAT_FUZZ_SEED ?? (Date.now() % 2_147_483_646) + 1);
const PIECES = [
  "a",
  "b ",
  " ",
  "\n",
  "*",
  "**",
  "_",
  "~~",
  "~",
  "[",
  "]",
  "(",
  ")",
  "](",
  "](https://a.example/)",
  "`",
  "``",
  "```",
  "```\n",
  "> ",
  ">",
  "@",
  "@ana",
  "@a.",
  "https://",
  "http://a",
  "https://a.example/(",
  "h",
  "H",
  ".",
  ",",
  "\\",
  "&lt;",
  "<b>",
  "\u0301",
  "\u202e",
  "\u200d",
  "\ud83d\ude00",
  "\ud800",
  "é",
  "javascript:alert(1)",
  "\t",
  "\r\n",
  "x".repeat(40),
];
const BODY_CHARS = 16_384;
const BODY_MS = 20;
const SHARE = 16;

class Dice {
  constructor(private state: number) {}

  below(limit: number): number {
    this.state = (this.state * 48_271) % 2_147_483_647;
    return this.state % limit;
  }

  text(pieces: number): string {
    return Array.from({ length: 1 + this.below(pieces) }, () => PIECES[this.below(PIECES.length)]).join("");
  }
}

function walk(nodes: readonly Inline[], see: (node: Inline, depth: number) => void, depth = 1): void {
  for (const node of nodes) {
    see(node, depth);
    if ("children" in node) walk(node.children, see, depth + 1);
  }
}

function look(blocks: readonly Block[], see: (node: Inline, depth: number) => void): void {
  for (const block of blocks) if (block.type !== "pre") walk(block.children, see);
}

/** The letters that a person would see, in order; what is markup has none of them. */
function letters(blocks: readonly Block[]): string {
  let found = "";
  for (const block of blocks) {
    if (block.type === "pre") found += block.text;
    else
      walk(block.children, (node) => {
        if (node.type === "text" || node.type === "code") found += node.text;
        if (node.type === "mention") found += node.name;
      });
  }
  return found.replace(/[^ab]/g, "");
}

/** The least CPU time of a few tries, in milliseconds, until one is short enough: others use this machine, too. */
function timeOf(text: string, enough: number): number {
  let best = Number.POSITIVE_INFINITY;
  for (let turn = 0; turn < 20 && best >= enough; turn += 1) {
    const started = cpuUsage();
    parse(text);
    const used = cpuUsage(started);
    best = Math.min(best, (used.user + used.system) / 1_000);
  }
  return best;
}

function forSeconds(share: number, one: (dice: Dice, tried: number) => void): number {
  const dice = new Dice(SEED);
  const until = performance.now() + SECONDS * 1_000 * share;
  let tried = 0;
  for (; performance.now() < until; tried += 1) one(dice, tried);
  return tried;
}

it(`makes nothing but text, marks and safe links of any text (seed ${SEED})`, {
  timeout: SECONDS * 1_000 + 20_000,
}, () => {
  const tried = forSeconds(0.5, (dice) => {
    const source = dice.text(30);
    look(parse(source), (node, depth) => {
      expect(depth, source).toBeLessThanOrEqual(8);
      if (node.type === "link") expect(node.href, source).toMatch(/^https?:\/\//);
      if (node.type === "mention") expect(node.name, source).toMatch(/^[a-z0-9][a-z0-9._-]*$/);
      if (node.type === "text") expect(node.text, source).not.toBe("");
    });
  });
  expect(tried).toBeGreaterThan(100);
});

it(`loses no letter that was written as text (seed ${SEED})`, { timeout: SECONDS * 1_000 + 20_000 }, () => {
  // No fences: the word behind ``` is the name of a language. No addresses: one is shown in its canonical form.
  const plain = PIECES.filter(
    (piece) => !piece.includes("`") && !piece.includes("http") && !/[^\sab*_~[\]()>@.,]/.test(piece),
  );
  const tried = forSeconds(0.2, (dice) => {
    const source = Array.from({ length: 1 + dice.below(20) }, () => plain[dice.below(plain.length)]).join("");
    expect(letters(parse(source)), JSON.stringify(source)).toBe(source.replace(/[^ab]/g, ""));
  });
  expect(tried).toBeGreaterThan(100);
});

it(`takes at most ${BODY_MS} ms for a body, and sixteen times as long for sixteen times as much (seed ${SEED})`, {
  timeout: SECONDS * 1_000 + 20_000,
}, () => {
  parse("*a* [b](https://a.example/) ".repeat(2_000)); // Compiled before it is measured.
  const tried = forSeconds(0.3, (dice) => {
    const piece = dice.text(5);
    const head = dice.below(2) ? dice.text(3) : "";
    const body = head + piece.repeat(Math.ceil(BODY_CHARS / piece.length)).slice(0, BODY_CHARS);
    const once = timeOf(body, 1);
    expect(once, JSON.stringify(head + piece)).toBeLessThan(BODY_MS);
    // From a quarter of a body to four: of sixteen bodies, the collector of garbage takes longer than the parser.
    const bound = timeOf(body.slice(0, BODY_CHARS / 4), 0.1) * SHARE * 4 + BODY_MS;
    expect(timeOf(body.repeat(4), bound), JSON.stringify(head + piece)).toBeLessThan(bound);
  });
  expect(tried).toBeGreaterThan(3);
});
