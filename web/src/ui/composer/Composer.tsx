/** Where one writes: drafts, replies, edits, completion, and the keys of all that. */

import { useSignal } from "@preact/signals";
import type { Ref } from "preact";
import { useEffect, useId, useLayoutEffect, useRef } from "preact/hooks";
import type { BotCommand, User } from "../../protocol/messages";
import { messageAt } from "../../state/log";
import { type Room, titleOf } from "../../state/rooms";
import { useChat } from "../context";
import { Icon } from "../icons";
import { actionOf, isComposing } from "../keymap";
import { quote } from "../quote";
import { commandOptions, isComplete, mentionOptions, type Option, triggerAt } from "./autocomplete";
import { commandIn, unescaped } from "./slash";

const COUNTER_FROM_BYTES = 200;
const encoder = new TextEncoder();
// biome-ignore lint/suspicious/noControlCharactersInRegex: those are what is taken out.
const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f]/g;

interface Props {
  room: Room;
  members: readonly User[];
  field: Ref<HTMLTextAreaElement>;
}

export function Composer({ room, members, field }: Props) {
  const chat = useChat();
  const writing = chat.drafts.of(room.id).value;
  const log = chat.logOf(room.id);
  const cursor = useSignal(writing.text.length);
  const highlighted = useSignal(0);
  const isDismissed = useSignal(false);
  const commands = useSignal<readonly BotCommand[] | null>(null);
  /** The command that stands in the field and that nobody here answers: it is not sent before somebody says so. */
  const unanswered = useSignal<string | null>(null);
  const listId = useId();
  const area = useRef<HTMLTextAreaElement | null>(null);
  const title = titleOf(room);
  const { text } = writing;

  useLayoutEffect(() => {
    const element = area.current;
    if (!element) return;
    element.style.height = "auto";
    element.style.height = `${element.scrollHeight}px`;
  }, [text, room.id]);

  useEffect(() => {
    commands.value = null;
    isDismissed.value = false;
  }, [room.id]);

  // An edit or a reply begins at the end of the text, before the first key: later it would undo a selection.
  useLayoutEffect(() => {
    const end = area.current?.value.length ?? 0;
    area.current?.setSelectionRange(end, end);
    cursor.value = end;
  }, [writing.editing, writing.replyTo, room.id]);

  const trigger = isDismissed.value ? null : triggerAt(text, Math.min(cursor.value, text.length));
  useEffect(() => {
    if (trigger?.kind !== "command" || commands.value) return;
    chat.call("command.list", { room: room.id }).then(
      (answer) => {
        commands.value = answer.commands;
      },
      // Without the list one can still write the command.
      () => {},
    );
  }, [trigger?.kind, room.id]);

  let options: Option[] = [];
  if (trigger?.kind === "command") options = commandOptions(commands.value ?? [], trigger.query);
  else if (trigger) options = mentionOptions(members, trigger.query);
  const complete = trigger !== null && isComplete(trigger, options);
  const choice = complete ? -1 : Math.min(highlighted.value, options.length - 1);
  const isOpen = options.length > 0;

  const bytes = text.length * 3 > chat.limits.value.body_bytes ? encoder.encode(text).length : text.length;
  const left = chat.limits.value.body_bytes - bytes;

  const setText = (value: string, at: number) => {
    chat.drafts.write(room.id, value);
    cursor.value = at;
    highlighted.value = 0;
    isDismissed.value = false;
    unanswered.value = null;
    if (value.trim()) chat.typing(room.id);
  };

  const pick = (option: Option) => {
    if (!trigger) return;
    const value = text.slice(0, trigger.start) + option.insert + text.slice(trigger.end).replace(/^ /, "");
    const at = trigger.start + option.insert.length;
    setText(value, at);
    requestAnimationFrame(() => {
      area.current?.focus();
      area.current?.setSelectionRange(at, at);
    });
  };

  /** Return whether a bot here answers to a command; what cannot be known now counts as no. */
  const isAnswered = async (name: string): Promise<boolean> => {
    const isThere = () => commands.value?.some((command) => command.name === name) ?? false;
    if (!isThere()) {
      try {
        commands.value = (await chat.call("command.list", { room: room.id })).commands;
      } catch {
        // Not connected: the question is asked.
      }
    }
    return isThere();
  };

  const send = async () => {
    const body = text.replace(CONTROL, "").trim();
    if (!body) return;
    if (encoder.encode(body).length > chat.limits.value.body_bytes) {
      chat.tell("This message is too long.", true);
      return;
    }
    const command = writing.editing === undefined ? commandIn(body) : null;
    if (command && !(await isAnswered(command))) {
      if (chat.drafts.of(room.id).peek().text === text) unanswered.value = command;
      return;
    }
    deliver(body);
  };

  const deliver = (body: string) => {
    const seq = writing.editing;
    if (seq === undefined) chat.send(room.id, unescaped(body), writing.replyTo);
    else if (!log || messageAt(log, seq)?.body !== body) chat.change(room.id, { op: "message.edit", seq }, body);
    chat.stopTyping();
    chat.drafts.clear(room.id);
    cursor.value = 0;
    unanswered.value = null;
  };

  const editLast = () => {
    const own = log?.items.findLast(
      (item) => item.kind === "message" && item.user === chat.me.value.id && !item.deleted,
    );
    if (own?.kind === "message") chat.drafts.edit(room.id, own.seq, own.body);
  };

  /** Return whether the key belonged to the list of options. */
  const onListKey = (event: KeyboardEvent): boolean => {
    if (!isOpen || isComposing(event)) return false;
    const move = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    if (move) {
      highlighted.value = (Math.max(choice, 0) + move + options.length) % options.length;
      return true;
    }
    if (event.key === "Escape") {
      isDismissed.value = true;
      return true;
    }
    const option = options[event.key === "Tab" ? Math.max(choice, 0) : choice];
    if ((event.key === "Enter" || event.key === "Tab") && !event.shiftKey && option) {
      pick(option);
      return true;
    }
    return false;
  };

  const onKeyDown = (event: KeyboardEvent) => {
    if (onListKey(event)) {
      event.preventDefault();
      event.stopPropagation();
      return;
    }
    const action = actionOf(event, "composer");
    if (action === "composer.send") {
      event.preventDefault();
      void send();
    } else if (action === "composer.editLast" && !text) {
      event.preventDefault();
      editLast();
    } else if (action === "composer.cancel" && (writing.editing !== undefined || writing.replyTo)) {
      event.preventDefault();
      event.stopPropagation();
      chat.drafts.cancel(room.id);
    }
  };

  const label = room.kind === "direct" ? `Message ${title}` : `Message #${title}`;
  const quoted = writing.replyTo && log ? messageAt(log, writing.replyTo) : undefined;
  return (
    <form
      class="composer"
      aria-label="Write a message"
      onSubmit={(event) => {
        event.preventDefault();
        void send();
        area.current?.focus();
      }}
    >
      {isOpen && (
        <div
          class="options"
          role="listbox"
          id={listId}
          aria-label={trigger?.kind === "command" ? "Commands" : "People"}
        >
          {options.map((option, index) => (
            // biome-ignore lint/a11y/useKeyWithClickEvents: the keys are those of the field, which keeps the focus.
            <div
              key={option.key}
              id={`${listId}-${index}`}
              role="option"
              tabIndex={-1}
              class="option"
              aria-selected={index === choice}
              onMouseDown={(event) => event.preventDefault()}
              onClick={() => pick(option)}
            >
              <span class="option-label">{option.label}</span>
              <span class="option-hint">{option.hint}</span>
            </div>
          ))}
        </div>
      )}
      {(writing.editing !== undefined || writing.replyTo !== undefined) && (
        <div class="composing">
          <Icon name={writing.editing === undefined ? "reply" : "edit"} size={16} />
          <span class="composing-text">
            {writing.editing === undefined ? (
              <>
                Reply to <strong>{quoted ? chat.people.name(quoted.user) : "a message"}</strong>
                {quoted && `: ${quote(quoted.body)}`}
              </>
            ) : (
              "Edit message"
            )}
          </span>
          <button
            type="button"
            class="icon-button icon-button-small"
            aria-label={writing.editing === undefined ? "Cancel reply" : "Cancel edit"}
            onClick={() => {
              chat.drafts.cancel(room.id);
              area.current?.focus();
            }}
          >
            <Icon name="close" size={16} />
          </button>
        </div>
      )}
      <div role="alert">
        {unanswered.value && (
          <div class="composing composing-question">
            <Icon name="alert" size={16} />
            <span>
              Nobody here answers to <strong>/{unanswered.value}</strong>, and nothing was sent.{" "}
              <button
                type="button"
                class="link-button"
                onClick={() => {
                  deliver(text.replace(CONTROL, "").trim());
                  area.current?.focus();
                }}
              >
                Send it as a message
              </button>
            </span>
          </div>
        )}
      </div>
      <div class="composer-box">
        <textarea
          ref={(element) => {
            area.current = element;
            if (typeof field === "function") field(element);
            else if (field) field.current = element;
          }}
          rows={1}
          aria-label={label}
          placeholder={label}
          aria-autocomplete="list"
          aria-controls={isOpen ? listId : undefined}
          aria-activedescendant={isOpen && choice >= 0 ? `${listId}-${choice}` : undefined}
          value={text}
          enterkeyhint="send"
          onInput={(event) => setText(event.currentTarget.value, event.currentTarget.selectionStart)}
          onSelect={(event) => {
            cursor.value = event.currentTarget.selectionStart;
          }}
          onKeyDown={onKeyDown}
        />
        {left < COUNTER_FROM_BYTES && (
          <span class={left < 0 ? "counter counter-over" : "counter"} role="status">
            {left < 0 ? `${-left} over the limit` : `${left} left`}
          </span>
        )}
        <button
          type="submit"
          class="send-button"
          aria-label={writing.editing === undefined ? "Send" : "Save"}
          aria-disabled={!text.trim() || left < 0}
        >
          <Icon name={writing.editing === undefined ? "send" : "check"} />
        </button>
      </div>
    </form>
  );
}
