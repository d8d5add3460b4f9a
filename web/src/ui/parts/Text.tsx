/** A message's text as elements. */

import type { ComponentChildren } from "preact";
import { useMemo } from "preact/hooks";
import { type Inline, parse } from "../markdown";

interface Mentions {
  /** Own username: highlighted more. */
  me: string;
}

function render(nodes: readonly Inline[], mentions: Mentions): ComponentChildren {
  return nodes.map((node, index) => renderOne(node, index, mentions));
}

function renderOne(node: Inline, key: number, mentions: Mentions): ComponentChildren {
  switch (node.type) {
    case "text":
      return node.text;
    case "code":
      return <code key={key}>{node.text}</code>;
    case "mention":
      return (
        <span key={key} class={node.name === mentions.me ? "mention mention-me" : "mention"}>
          @{node.name}
        </span>
      );
    case "link":
      return (
        <a key={key} href={node.href} target="_blank" rel="noopener noreferrer">
          {render(node.children, mentions)}
        </a>
      );
    default: {
      const Mark = node.type;
      return <Mark key={key}>{render(node.children, mentions)}</Mark>;
    }
  }
}

const ONLY_EMOJI =
  /^(?:\p{Extended_Pictographic}(?:\p{Emoji_Modifier}|\u200d|\ufe0f|\p{Extended_Pictographic})*\s*){1,6}$/u;

export function Text({ body, me }: { body: string; me: string }) {
  const blocks = useMemo(() => parse(body), [body]);
  if (body.length < 60 && ONLY_EMOJI.test(body)) return <p class="text-emoji">{body}</p>;
  return (
    <>
      {blocks.map((block, index) => {
        if (block.type === "pre") {
          return (
            // biome-ignore lint/a11y/noNoninteractiveTabindex: long lines scroll, and the keyboard must reach them.
            <pre key={index} tabIndex={0}>
              <code>{block.text}</code>
            </pre>
          );
        }
        const children = render(block.children, { me });
        return block.type === "quote" ? <blockquote key={index}>{children}</blockquote> : <p key={index}>{children}</p>;
      })}
    </>
  );
}
