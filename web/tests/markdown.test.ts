import { describe, expect, it } from "vitest";
import { type Block, type Inline, inline, parse, plainOf } from "../src/ui/markdown";

/** The tree as a short text: b(bold), i(italic), s(strike), `code`, <address|text>. */
function show(nodes: readonly Inline[]): string {
  return nodes
    .map((node) => {
      switch (node.type) {
        case "text":
          return node.text;
        case "code":
          return `\`${node.text}\``;
        case "mention":
          return `{${node.name}}`;
        case "link":
          return `<${node.href}|${show(node.children)}>`;
        default:
          return `${{ strong: "b", em: "i", del: "s" }[node.type]}(${show(node.children)})`;
      }
    })
    .join("");
}

function plain(nodes: readonly Inline[]): string {
  return nodes
    .map((node) => {
      if (node.type === "mention") return node.name;
      return "children" in node ? plain(node.children) : node.text;
    })
    .join("");
}

const text = (source: string) => show(inline(source));
const blocks = (source: string) =>
  parse(source).map((block: Block) =>
    block.type === "pre" ? `pre:${block.text}` : `${block.type === "quote" ? ">" : ""}${show(block.children)}`,
  );

describe("inline", () => {
  it.each([
    ["**bold** and *it* and _it_ and ~~no~~", "b(bold) and i(it) and i(it) and s(no)"],
    ["**bold *both* bold**", "b(bold i(both) bold)"],
    ["*open **closed**", "*open b(closed)"],
    ["2 * 3 * 4", "2 * 3 * 4"],
    ["snake_case_name stays", "snake_case_name stays"],
    ["a `**code**` b", "a `**code**` b"],
    ["`open", "`open"],
    ["**", "**"],
    ["****", "****"],
    ["~one~", "~one~"],
  ])("%s", (source, expected) => {
    expect(text(source)).toBe(expected);
  });

  it("makes links of http and https only", () => {
    expect(text("see https://a.example/x?y=1.")).toBe("see <https://a.example/x?y=1|https://a.example/x?y=1>.");
    expect(text("(https://a.example/b_(c))")).toBe("(<https://a.example/b_(c)|https://a.example/b_(c)>)");
    expect(text("[docs](https://a.example/)")).toBe("<https://a.example/|docs>");
    expect(text("[x](javascript:alert(1))")).toBe("[x](javascript:alert(1))");
    expect(text("javascript:alert(1) data:text/html,x")).toBe("javascript:alert(1) data:text/html,x");
    expect(text("[a [b](https://a.example/)")).toBe("[a <https://a.example/|b>");
  });

  it("knows mentions", () => {
    expect(text("hi @Ana, @ben. a@b.example")).toBe("hi {ana}, {ben}. a@b.example");
  });
});

describe("blocks", () => {
  it("splits code, quotes and paragraphs", () => {
    const source = "one\ntwo\n\n> said\n> more\nthree\n```js\nlet *a* = 1;\n```\nend";
    expect(blocks(source)).toEqual(["one\ntwo", ">said\nmore", "three", "pre:let *a* = 1;", "end"]);
  });

  it("closes an open fence at the end", () => {
    expect(blocks("```\ncode")).toEqual(["pre:code"]);
    expect(blocks("```code```")).toEqual(["pre:code"]);
  });
});

describe("time", () => {
  const hard = ["*", "**a", "_a ", "[", "](", "](h", "`", "~~a", "http://[", "https://a ", "@a", "> ", "```\n", "*_~~"];
  it.each(hard)("is linear for %j", (piece) => {
    const source = piece.repeat(Math.floor(200_000 / piece.length));
    const started = performance.now();
    parse(source);
    expect(performance.now() - started).toBeLessThan(1_500);
  });

  it("never loses text", () => {
    const pieces = ["a", " ", "*", "**", "_", "~~", "[", "]", "(", ")", "`", "@b", "\n"];
    for (let seed = 1; seed < 400; seed += 1) {
      let state = seed;
      const source = Array.from({ length: 14 }, () => {
        state = (state * 48_271) % 2_147_483_647;
        return pieces[state % pieces.length];
      }).join("");
      const letters = (whole: string) => whole.replace(/[^ab]/g, "");
      expect(letters(plain(inline(source)))).toBe(letters(source));
    }
  });
});

describe("a message that is read out", () => {
  it.each([
    ["**Done**, _really_ ~~not~~ `x = 1`", "Done, really not x = 1"],
    ["see https://example.org/a?b=c&d=e.", "see link to example.org."],
    ["see [the page](https://example.org/a)", "see the page, link"],
    ["@bob look", "@bob look"],
    ["> said *before*\nnow", "quote: said before. now"],
    ["```\nsecurechat doctor\n```", "code: securechat doctor"],
    ["```\na\nb\nc\n```", "3 lines of code"],
    ["2 * 3 * 4 <b>", "2 * 3 * 4 <b>"],
  ])("%j is %j", (body, words) => {
    expect(plainOf(body)).toBe(words);
  });
});
