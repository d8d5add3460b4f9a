/**
 * The little Markdown of chat, parsed to a tree in linear time. Never HTML.
 *
 * Blocks: fenced code, quotes, paragraphs. Inline: `code`, **bold**, *italic*, _italic_, ~~strike~~, links, @mentions.
 */

export type Inline =
  | { type: "text"; text: string }
  | { type: "code"; text: string }
  | { type: "link"; href: string; children: Inline[] }
  | { type: "mention"; name: string }
  | { type: "strong" | "em" | "del"; children: Inline[] };

export type Block =
  | { type: "paragraph"; children: Inline[] }
  | { type: "quote"; children: Inline[] }
  | { type: "pre"; text: string };

type Mark = "strong" | "em" | "del";

const MARKS: Record<string, Mark> = { "**": "strong", "*": "em", _: "em", "~~": "del" };

/** Return the blocks of a message. */
export function parse(body: string): Block[] {
  const blocks: Block[] = [];
  const lines = body.split("\n");
  let text: string[] = [];
  let quote: string[] = [];
  const endText = () => {
    if (text.some((line) => line.trim())) blocks.push({ type: "paragraph", children: inline(text.join("\n").trim()) });
    text = [];
  };
  const endQuote = () => {
    if (quote.length) blocks.push({ type: "quote", children: inline(quote.join("\n")) });
    quote = [];
  };
  for (let at = 0; at < lines.length; at += 1) {
    const line = lines[at] as string;
    if (line.startsWith("```")) {
      endText();
      endQuote();
      const code: string[] = [];
      const oneLine = line.length > 6 && line.endsWith("```");
      if (oneLine) code.push(line.slice(3, -3));
      else for (at += 1; at < lines.length && !lines[at]?.startsWith("```"); at += 1) code.push(lines[at] as string);
      blocks.push({ type: "pre", text: code.join("\n") });
    } else if (line.startsWith(">")) {
      endText();
      quote.push(line.slice(line.startsWith("> ") ? 2 : 1));
    } else {
      endQuote();
      if (line.trim()) text.push(line);
      else endText();
    }
  }
  endText();
  endQuote();
  return blocks;
}

/** Return a message as words to be heard: no marks, of an address its host only, code by name when it is long. */
export function plainOf(body: string): string {
  return parse(body)
    .map((block) => {
      if (block.type === "pre") return spokenCode(block.text);
      return block.type === "quote" ? `quote: ${spoken(block.children)}` : spoken(block.children);
    })
    .join(". ");
}

const CODE_HEARD = 80;

function spokenCode(text: string): string {
  const lines = text.split("\n").length;
  return text.length <= CODE_HEARD && lines === 1
    ? `code: ${text}`
    : `${lines} ${lines === 1 ? "line" : "lines"} of code`;
}

function spoken(nodes: readonly Inline[]): string {
  return nodes
    .map((node) => {
      switch (node.type) {
        case "text":
        case "code":
          return node.text;
        case "mention":
          return `@${node.name}`;
        case "link": {
          const words = spoken(node.children);
          return /^https?:/i.test(words) ? `link to ${new URL(node.href).host}` : `${words}, link`;
        }
        default:
          return spoken(node.children);
      }
    })
    .join("");
}

interface Frame {
  /** What opened it: `**`, `[`, or nothing for the outermost. */
  opener: string;
  children: Inline[];
}

const URL_AT = /https?:\/\/[^\s<>"]{1,2048}/iy;
const MENTION_AT = /@([a-z0-9][a-z0-9._-]{1,31})/iy;
const TARGET_AT = /\]\((https?:\/\/[^\s()[\]<>"]{1,2048})\)/iy;
const WORD = /[\p{L}\p{N}_]/u;

function matchAt(pattern: RegExp, text: string, at: number): RegExpExecArray | null {
  pattern.lastIndex = at;
  return pattern.exec(text);
}

/** Each opener is in the stack at most once, so the stack has at most six frames and a character moves at most six times. */
class Scanner {
  private readonly stack: Frame[] = [{ opener: "", children: [] }];
  private plain = "";
  private noMoreCode = false;

  constructor(private readonly text: string) {}

  run(): Inline[] {
    let at = 0;
    while (at < this.text.length) at = this.step(at);
    while (this.stack.length > 1) this.dissolve();
    this.endPlain();
    return this.top.children;
  }

  private get top(): Frame {
    return this.stack.at(-1) as Frame;
  }

  private step(at: number): number {
    const { text } = this;
    const char = text[at] as string;
    switch (char) {
      case "`":
        return this.code(at);
      case "*":
      case "_":
      case "~":
        return this.mark(at, char);
      case "[":
        return this.open("[", at);
      case "]":
        return this.target(at);
      case "h":
      case "H":
        return this.address(at);
      case "@":
        return this.mention(at);
      default:
        this.plain += char;
        return at + 1;
    }
  }

  private code(at: number): number {
    const end = this.noMoreCode ? -1 : this.text.indexOf("`", at + 1);
    if (end < 0) this.noMoreCode = true;
    if (end <= at + 1) {
      this.plain += "`";
      return at + 1;
    }
    this.add({ type: "code", text: this.text.slice(at + 1, end) });
    return end + 1;
  }

  private mark(at: number, char: string): number {
    const { text } = this;
    const double = text[at + 1] === char && char !== "_";
    const opener = double ? char + char : char;
    const end = at + opener.length;
    if (!MARKS[opener]) {
      this.plain += opener;
      return end;
    }
    const before = text[at - 1] ?? " ";
    const after = text[end] ?? " ";
    const isOpen = this.stack.some((frame) => frame.opener === opener);
    const inWord = opener === "_" && WORD.test(before) && WORD.test(after);
    if (isOpen && /\S/.test(before) && !inWord) {
      this.close(opener);
      return end;
    }
    if (!isOpen && /\S/.test(after) && !inWord && !(opener === "_" && WORD.test(before))) return this.open(opener, at);
    this.plain += opener;
    return end;
  }

  private open(opener: string, at: number): number {
    // A second "[" makes the first one plain text: only the innermost can be a link.
    if (opener === "[" && this.stack.some((frame) => frame.opener === "[")) {
      while (this.top.opener !== "[") this.dissolve();
      this.dissolve();
    }
    this.endPlain();
    this.stack.push({ opener, children: [] });
    return at + opener.length;
  }

  private close(opener: string): void {
    while (this.top.opener !== opener) this.dissolve();
    this.endPlain();
    const { children } = this.stack.pop() as Frame;
    if (children.length) this.add({ type: MARKS[opener] as Mark, children });
    else this.plain += opener + opener;
  }

  /** Turn the innermost open mark back into text. */
  private dissolve(): void {
    this.endPlain();
    const { opener, children } = this.stack.pop() as Frame;
    this.plain += opener;
    this.endPlain();
    for (const child of children) this.top.children.push(child); // Spread, very many would overflow the stack.
  }

  private target(at: number): number {
    const isOpen = this.stack.some((frame) => frame.opener === "[");
    const found = isOpen ? matchAt(TARGET_AT, this.text, at) : null;
    const href = found?.[1] ? safeAddress(found[1]) : null;
    if (!found || !href) {
      this.plain += "]";
      return at + 1;
    }
    while (this.top.opener !== "[") this.dissolve();
    this.endPlain();
    const { children } = this.stack.pop() as Frame;
    this.add({ type: "link", href, children: children.length ? children : [{ type: "text", text: href }] });
    return at + found[0].length;
  }

  private address(at: number): number {
    const { text } = this;
    const found = WORD.test(text[at - 1] ?? " ") ? null : matchAt(URL_AT, text, at);
    const shown = found ? withoutPunctuation(found[0]) : "";
    const href = shown ? safeAddress(shown) : null;
    if (!href) {
      // What was looked at is not looked at again.
      const plain = shown || (text[at] as string);
      this.plain += plain;
      return at + plain.length;
    }
    // Inside [text](address) the outer address counts: links do not nest.
    if (this.stack.some((frame) => frame.opener === "[")) this.plain += shown;
    else this.add({ type: "link", href, children: [{ type: "text", text: shown }] });
    return at + shown.length;
  }

  private mention(at: number): number {
    const found = WORD.test(this.text[at - 1] ?? " ") ? null : matchAt(MENTION_AT, this.text, at);
    const name = found?.[1]?.replace(/[._-]+$/, "");
    if (!name) {
      this.plain += "@";
      return at + 1;
    }
    this.add({ type: "mention", name: name.toLowerCase() });
    return at + 1 + name.length;
  }

  private add(node: Inline): void {
    this.endPlain();
    this.top.children.push(node);
  }

  private endPlain(): void {
    if (!this.plain) return;
    this.top.children.push({ type: "text", text: this.plain });
    this.plain = "";
  }
}

/** Return the tree of one line or paragraph. */
export function inline(text: string): Inline[] {
  return new Scanner(text).run();
}

/** Leave out what belongs to the sentence and not to the address. */
function withoutPunctuation(address: string): string {
  let end = address.length;
  let open = 0;
  for (const char of address) open += char === "(" ? 1 : char === ")" ? -1 : 0;
  for (; end > 0; end -= 1) {
    const char = address[end - 1] as string;
    if (char === ")" && open < 0) open += 1;
    else if (!".,;:!?'\"*_~]`".includes(char)) break;
  }
  return address.slice(0, end);
}

function safeAddress(text: string): string | null {
  // An exception for each half of an address would take longer than everything else.
  if ("canParse" in URL && !URL.canParse(text)) return null;
  try {
    const url = new URL(text);
    return url.protocol === "https:" || url.protocol === "http:" ? url.href : null;
  } catch {
    return null;
  }
}
