/** One message: who, when, what, and what became of it. */

import { Component, type ComponentChildren } from "preact";
import type { Message } from "../../state/log";
import { Icon } from "../icons";
import { Avatar } from "../parts/Avatar";
import { Text } from "../parts/Text";
import { fullTimeOf, timeOf } from "../when";
import { FREQUENT, nameOf } from "./emoji";

export interface Quote {
  seq: number;
  author: string;
  text: string;
}

export interface MessageActions {
  react: (message: Message, emoji: string) => void;
  pickReaction: (message: Message) => void;
  reply: (message: Message) => void;
  edit: (message: Message) => void;
  remove: (message: Message) => void;
  jump: (seq: number) => void;
  nameOf: (user: string) => string;
  retry: (cmid: string) => void;
  rewrite: (cmid: string) => void;
  discard: (cmid: string) => void;
}

interface Props {
  message: Message;
  author: string;
  isBot: boolean;
  isHead: boolean;
  isActive: boolean;
  isFocusable: boolean;
  isTarget: boolean;
  me: string;
  username: string;
  mayDelete: boolean;
  quoteSeq: number;
  quoteAuthor: string;
  quoteText: string;
  /** An edit, a deletion or a reaction is on its way. */
  isChanging: boolean;
  /** On its way: not acknowledged, or refused for good. */
  state: "" | "sending" | "refused";
  cmid: string;
  refusal: string;
  actions: MessageActions;
}

/** Rendered again only when something that it shows has changed. */
export class MessageView extends Component<Props> {
  override shouldComponentUpdate(next: Props): boolean {
    const names = Object.keys(next) as (keyof Props)[];
    return names.some((name) => next[name] !== this.props[name]);
  }

  override render() {
    const {
      message,
      me,
      actions,
      author,
      isHead,
      isActive,
      isFocusable,
      isTarget,
      isChanging,
      isBot,
      username,
      state,
    } = this.props;
    const names = ["message"];
    if (isHead) names.push("message-head");
    if (isActive) names.push("is-active");
    if (isTarget) names.push("is-target");
    if (state) names.push(`is-${state}`);
    return (
      <article
        class={names.join(" ")}
        tabIndex={isFocusable ? 0 : -1}
        aria-label={`${author}, ${timeOf(message.at)}${state === "refused" ? ", not sent" : ""}`}
        aria-posinset={message.seq || undefined}
        aria-setsize={-1}
      >
        <Gutter id={message.user} author={author} at={message.at} isHead={isHead} />
        <div class="message-main">
          {isHead && <Head author={author} at={message.at} isBot={isBot} />}
          {this.renderQuote()}
          {message.deleted ? (
            <p class="tombstone">
              <Icon name="trash" size={14} /> Message deleted
            </p>
          ) : (
            <div class="text">
              <Text body={message.body} me={username} />
              {message.edited > 0 && <span class="edited">(edited)</span>}
            </div>
          )}
          <Reactions message={message} me={me} actions={actions} />
          {state === "refused" && this.renderRefusal()}
        </div>
        {(state === "sending" || isChanging) && (
          <span class="sending" title="Waiting to be sent">
            <Icon name="clock" size={14} />
            <span class="hidden">Waiting to be sent</span>
          </span>
        )}
        {isActive && !state && message.seq > 0 && !message.deleted && this.renderActions()}
      </article>
    );
  }

  private renderQuote(): ComponentChildren {
    const { quoteSeq, quoteAuthor, quoteText, actions } = this.props;
    if (!quoteSeq) return null;
    return (
      <button type="button" class="quote" onClick={() => actions.jump(quoteSeq)}>
        <Icon name="reply" size={14} />
        <span class="hidden">In reply to</span>
        {quoteAuthor ? (
          <>
            <span class="quote-author">{quoteAuthor}</span>
            <span class="quote-text">{quoteText}</span>
          </>
        ) : (
          <span class="quote-text">an earlier message</span>
        )}
      </button>
    );
  }

  private renderRefusal(): ComponentChildren {
    const { refusal, cmid, actions } = this.props;
    return (
      <div class="refusal" role="alert">
        <span>
          <Icon name="alert" size={16} /> {refusal}
        </span>
        <button type="button" class="link-button" onClick={() => actions.retry(cmid)}>
          Retry
        </button>
        <button type="button" class="link-button" onClick={() => actions.rewrite(cmid)}>
          Edit
        </button>
        <button type="button" class="link-button" onClick={() => actions.discard(cmid)}>
          Delete
        </button>
      </div>
    );
  }

  private renderActions(): ComponentChildren {
    const { message, me, mayDelete, actions } = this.props;
    const isOwn = message.user === me;
    return (
      <div class="actions" role="toolbar" aria-label="Message actions">
        {FREQUENT.map(({ sign, name }) => (
          <button
            type="button"
            key={sign}
            class="action action-emoji"
            aria-label={`React with ${name}`}
            title={`React with ${name}`}
            onClick={() => actions.react(message, sign)}
          >
            {sign}
          </button>
        ))}
        <ActionButton icon="smile" label="React" run={() => actions.pickReaction(message)} />
        <ActionButton icon="reply" label="Reply" run={() => actions.reply(message)} />
        {isOwn && <ActionButton icon="edit" label="Edit" run={() => actions.edit(message)} />}
        {mayDelete && <ActionButton icon="trash" label="Delete" run={() => actions.remove(message)} />}
      </div>
    );
  }
}

/** A component of its own, so that a name that becomes known is shown although nothing of the message changed. */
function Reactions({ message, me, actions }: Pick<Props, "message" | "me" | "actions">) {
  const reactions = Object.entries(message.reactions);
  if (!reactions.length) return null;
  return (
    <div class="reactions">
      {reactions.map(([emoji, users]) => {
        const isMine = users.includes(me);
        const who = namesOf(users, me, actions.nameOf);
        return (
          <button
            type="button"
            key={emoji}
            class={isMine ? "reaction reaction-mine" : "reaction"}
            aria-pressed={isMine}
            title={who}
            onClick={() => actions.react(message, emoji)}
          >
            <span class="reaction-sign" aria-hidden="true">
              {emoji}
            </span>
            <span aria-hidden="true">{users.length}</span>
            <span class="hidden">{`${nameOf(emoji)}: ${who}`}</span>
          </button>
        );
      })}
      <button
        type="button"
        class="reaction reaction-add"
        aria-label="Add reaction"
        onClick={() => actions.pickReaction(message)}
      >
        <Icon name="smile" size={16} />
      </button>
    </div>
  );
}

function ActionButton({
  icon,
  label,
  run,
}: {
  icon: "smile" | "reply" | "edit" | "trash";
  label: string;
  run: () => void;
}) {
  return (
    <button type="button" class="action" aria-label={label} title={label} onClick={run}>
      <Icon name={icon} size={18} />
    </button>
  );
}

function Gutter({ id, author, at, isHead }: { id: string; author: string; at: number; isHead: boolean }) {
  return (
    <div class="gutter">
      {isHead ? (
        <Avatar id={id} name={author} />
      ) : (
        <time class="gutter-time" dateTime={new Date(at).toISOString()}>
          {timeOf(at)}
        </time>
      )}
    </div>
  );
}

function Head({ author, at, isBot }: { author: string; at: number; isBot: boolean }) {
  return (
    <header class="message-by">
      <span class="author">{author}</span>
      {isBot && <span class="badge-bot">Bot</span>}
      <time dateTime={new Date(at).toISOString()} title={fullTimeOf(at)}>
        {timeOf(at)}
      </time>
    </header>
  );
}

function namesOf(users: readonly string[], me: string, nameOfUser: (user: string) => string): string {
  const names = users.map((user) => (user === me ? "You" : nameOfUser(user)));
  if (names.length > 6) return `${names.slice(0, 5).join(", ")} and ${names.length - 5} more`;
  return names.length > 1 ? `${names.slice(0, -1).join(", ")} and ${names.at(-1)}` : (names[0] ?? "");
}
