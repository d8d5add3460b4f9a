/** The timeline of one room: rows, keys, focus, and what one does with a message. */

import { useSignal } from "@preact/signals";
import { useCallback, useEffect, useMemo, useRef } from "preact/hooks";
import { failureOf } from "../../state/chat";
import { isAttached, type Message, messageAt } from "../../state/log";
import type { Room } from "../../state/rooms";
import { titleOf } from "../../state/rooms";
import { type Row, rowsOf, seqOf } from "../../state/rows";
import { useChat } from "../context";
import { Icon } from "../icons";
import { actionOf } from "../keymap";
import { layer } from "../layer";
import { Confirm } from "../parts/Confirm";
import { quote } from "../quote";
import { EmojiPicker } from "./EmojiPicker";
import { estimate } from "./estimate";
import { type MessageActions, MessageView } from "./MessageView";
import { DayLine, FoldedLine, NewLine, NoticeLine, noticeText, RoomStart } from "./rows";
import { Skeletons } from "./Skeletons";
import { useIsAttended } from "./useIsAttended";
import { VirtualList } from "./VirtualList";

const TARGET_SHOWN_MS = 2_500;

const rowKey = (row: Row) => row.key;
const isFirm = (row: Row) => row.type !== "day" && row.type !== "new" && row.type !== "start";
const canFocus = (row: Row | undefined) =>
  row?.type === "message" || row?.type === "notice" || row?.type === "pending" || row?.type === "folded";

export function Timeline({ room, onWrite }: { room: Room; onWrite: () => void }) {
  const chat = useChat();
  const timeline = chat.timelines.of(room.id);
  const log = chat.logOf(room.id);
  const me = chat.me.value;
  const list = useRef<VirtualList<Row>>(null);
  const isAtEnd = useSignal(true);
  const hovered = useSignal<string | null>(null);
  /** The row with the bar of actions: never two at once. */
  const active = useSignal<string | null>(null);
  /** A finger is down, or what the browser makes of its tap is still to come: the bar opens after that, not under it. */
  const isTouched = useRef(false);
  const focused = useSignal<string | null>(null);
  const unfolded = useSignal<ReadonlySet<string>>(new Set());
  const shownTarget = useSignal(0);
  const picking = useSignal<number | null>(null);
  const deleting = useSignal<number | null>(null);
  const seenUpTo = useSignal(0);
  const isAttended = useIsAttended();

  const waiting = chat.pending.value.filter((item) => item.room === room.id);
  const pending = [...chat.acknowledged.value.filter((item) => item.room === room.id), ...waiting];
  const changing = new Set(waiting.map((item) => (item.refused ? undefined : item.change?.seq)));
  const newAfter = timeline.newAfter.value;
  const blocked = chat.blocked.value;
  const rows = useMemo(
    () =>
      log ? rowsOf({ log, pending, me: me.id, device: chat.device, newAfter, blocked, unfolded: unfolded.value }) : [],
    [log, chat.acknowledged.value, chat.pending.value, me.id, newAfter, blocked, unfolded.value],
  );
  const current = useRef({ rows, log, room });
  current.current = { rows, log, room };

  const attached = !log || isAttached(log);
  const isWatching = isAtEnd.value && attached && isAttended.value;
  useEffect(() => {
    chat.watch(room.id, isWatching);
    return () => chat.watch(room.id, false);
  }, [isWatching, room.id]);

  // Own words are always shown, wherever one was reading.
  const lastPending = pending.findLast((item) => !item.change)?.cmid;
  useEffect(() => {
    if (lastPending) list.current?.scrollToEnd();
  }, [lastPending]);

  if (isAtEnd.value && attached && log) seenUpTo.value = log.to;

  const target = timeline.target.value;
  useEffect(() => {
    if (!target) return;
    const row =
      current.current.rows.find((one) => seqOf(one) === target.seq) ?? nextRow(current.current.rows, target.seq);
    timeline.target.value = null;
    if (!row) return;
    list.current?.scrollTo(row.key);
    shownTarget.value = target.seq;
    focused.value = row.key;
    setTimeout(() => {
      list.current?.elementOf(row.key)?.querySelector("article")?.focus({ preventScroll: true });
    });
    setTimeout(() => {
      if (shownTarget.value === target.seq) shownTarget.value = 0;
    }, TARGET_SHOWN_MS);
  }, [target]);

  const toEnd = useCallback(async () => {
    const now = current.current.log;
    if (now && !isAttached(now)) await chat.timelines.open(room.id);
    list.current?.scrollToEnd();
  }, [room.id]);

  const actions = useMemo(
    (): MessageActions => ({
      react: (message, emoji) => {
        const isMine = message.reactions[emoji]?.includes(chat.me.value.id);
        const op = isMine ? "reaction.remove" : "reaction.add";
        chat.change(room.id, { op, seq: message.seq, emoji });
      },
      pickReaction: (message) => {
        picking.value = message.seq;
      },
      reply: (message) => {
        chat.drafts.reply(room.id, message.seq);
        onWrite();
      },
      edit: (message) => {
        chat.drafts.edit(room.id, message.seq, message.body);
        onWrite();
      },
      remove: (message) => {
        deleting.value = message.seq;
      },
      jump: (seq) => void chat.timelines.jump(room.id, seq),
      nameOf: (user) => chat.people.name(user),
      retry: (cmid) => chat.retry(cmid),
      rewrite: (cmid) => {
        const item = chat.unsend(cmid);
        if (item) chat.drafts.takeBack(item);
        onWrite();
      },
      discard: (cmid) => void chat.unsend(cmid),
    }),
    [room.id],
  );

  const isManager = room.role === "owner" || me.role === "owner" || me.role === "admin";
  const mayDelete = (message: Message) => message.user === me.id || isManager;
  const focusableKey = focused.value ?? [...rows].reverse().find(canFocus)?.key ?? null;

  const focusRow = (index: number) => {
    const row = rows[index];
    if (!row) return;
    focused.value = row.key;
    // The row may only exist after the next rendering.
    requestAnimationFrame(() => {
      list.current?.reveal(row.key);
      list.current?.elementOf(row.key)?.querySelector("article")?.focus({ preventScroll: true });
    });
  };
  const step = (by: number) => {
    let index = rows.findIndex((row) => row.key === focusableKey) + by;
    while (index >= 0 && index < rows.length && !canFocus(rows[index])) index += by;
    if (index >= 0 && index < rows.length) focusRow(index);
  };

  /** A dialog about a message ends: its button may be gone, the message is there. */
  const focusMessage = (seq: number | null) => focusRow(rows.findIndex((row) => seqOf(row) === seq));

  const onKeyDown = (event: KeyboardEvent) => {
    isTouched.current = false;
    // Keys inside a row's buttons belong to the buttons, but for Escape, which leads back to the row.
    const inRow = event.target instanceof HTMLElement && event.target.tagName === "ARTICLE";
    const action = actionOf(event, "list");
    if (!inRow && action !== "list.composer" && !action?.startsWith("list.up") && !action?.startsWith("list.down"))
      return;
    const row = rows.find((one) => one.key === focusableKey);
    const message = row?.type === "message" && !row.message.deleted ? row.message : null;
    const run: Partial<Record<NonNullable<typeof action>, () => void>> = {
      "list.up": () => step(-1),
      "list.down": () => step(1),
      "list.first": () => focusRow(rows.findIndex(canFocus)),
      "list.last": () => {
        void toEnd();
        focusRow(rows.findLastIndex(canFocus));
      },
      "list.composer": () => {
        void toEnd();
        focused.value = null;
        onWrite();
      },
      "list.reply": () => message && actions.reply(message),
      "list.edit": () => message?.user === me.id && actions.edit(message),
      "list.react": () => message && actions.pickReaction(message),
      "list.delete": () => message && mayDelete(message) && actions.remove(message),
      "list.copy": () => message && void navigator.clipboard?.writeText(message.body).then(() => chat.tell("Copied")),
      shortcuts: () => {
        layer.value = { name: "shortcuts" };
      },
    };
    const found = action ? run[action] : undefined;
    if (!found) return;
    event.preventDefault();
    found();
  };

  const quoteOf = (seq: number | undefined) => {
    if (!seq || !log) return { quoteSeq: 0, quoteAuthor: "", quoteText: "" };
    const quoted = messageAt(log, seq);
    if (!quoted) return { quoteSeq: seq, quoteAuthor: "", quoteText: "" };
    const isHidden = blocked.has(quoted.user);
    const text = isHidden ? "a message from somebody you blocked" : quoted.deleted ? "a deleted message" : quoted.body;
    return { quoteSeq: seq, quoteAuthor: chat.people.name(quoted.user), quoteText: quote(text) };
  };

  const renderRow = (row: Row) => {
    switch (row.type) {
      case "day":
        return <DayLine at={row.at} />;
      case "new":
        return <NewLine />;
      case "start":
        return <RoomStart room={room} onAdd={() => (layer.value = { name: "add", room: room.id })} />;
      case "notice":
        return (
          <NoticeLine
            text={noticeText(row.entry, me.id, actions.nameOf)}
            at={row.at}
            isFocusable={row.key === focusableKey}
          />
        );
      case "folded":
        return (
          <FoldedLine
            row={row}
            isFocusable={row.key === focusableKey}
            onShow={() => {
              unfolded.value = new Set(unfolded.value).add(row.key);
            }}
          />
        );
      default: {
        const { message } = row;
        const item = row.type === "pending" ? row.item : null;
        const isSent = !item || item.seq !== undefined;
        return (
          <MessageView
            message={message}
            author={chat.people.name(message.user)}
            isBot={chat.people.users.value.get(message.user)?.role === "bot"}
            isHead={row.head}
            isActive={active.value === row.key}
            isFocusable={row.key === focusableKey}
            isTarget={message.seq > 0 && shownTarget.value === message.seq}
            me={me.id}
            username={me.username}
            mayDelete={mayDelete(message)}
            {...quoteOf(message.replyTo)}
            isChanging={!item && changing.has(message.seq)}
            state={item?.refused ? "refused" : isSent ? "" : "sending"}
            cmid={item?.cmid ?? ""}
            refusal={item?.refused ? failureOf(item) : ""}
            actions={actions}
          />
        );
      }
    }
  };

  const newCount = log ? Math.max(0, log.live - seenUpTo.value) : 0;
  const unreadAbove = newAfter !== null && log !== null && newAfter + 1 < log.from;
  const deleted = deleting.value;
  const pickingMessage = picking.value && log ? messageAt(log, picking.value) : undefined;

  return (
    <section class="timeline" aria-label={`Messages in ${titleOf(room)}`}>
      {unreadAbove && (
        <div class="jump-bar">
          <button type="button" onClick={() => void chat.timelines.jump(room.id, (newAfter ?? 0) + 1)}>
            Jump to the first new message
          </button>
          <button
            type="button"
            aria-label="Dismiss"
            onClick={() => {
              timeline.newAfter.value = null;
            }}
          >
            <Icon name="close" size={16} />
          </button>
        </div>
      )}
      {timeline.failed.value && (
        <div class="jump-bar" role="status">
          <span>Could not load messages.</span>
          <button type="button" onClick={() => void retryLoad(timeline.failed.value, room.id, chat)}>
            Try again
          </button>
        </div>
      )}
      {rows.length === 0 ? (
        <Skeletons />
      ) : (
        <VirtualList
          key={room.id}
          handle={list}
          rows={rows}
          keyOf={rowKey}
          estimate={estimate}
          isFirm={isFirm}
          pinned={focused.value}
          render={renderRow}
          onNearStart={() => !timeline.failed.value && void chat.timelines.older(room.id)}
          onNearEnd={() => !timeline.failed.value && void chat.timelines.newer(room.id)}
          onEnd={(isEnd) => {
            isAtEnd.value = isEnd;
          }}
          viewportProps={{
            role: "feed",
            "aria-label": "Messages",
            "aria-busy": timeline.busy.value !== null,
            onKeyDown,
            onPointerDown: (event: PointerEvent) => {
              isTouched.current = event.pointerType === "touch";
            },
            onPointerCancel: () => {
              isTouched.current = false;
            },
            onClick: (event: MouseEvent) => {
              if (!isTouched.current) return;
              isTouched.current = false;
              active.value = keyAt(event.target);
            },
            onPointerOver: (event: PointerEvent) => {
              if (event.pointerType === "touch") return;
              hovered.value = keyAt(event.target);
              // A bar that the keys are in stays.
              if (!document.activeElement?.matches(".actions :focus-visible")) {
                active.value = hovered.value ?? focused.value;
              }
            },
            onPointerLeave: (event: PointerEvent) => {
              if (event.pointerType === "touch") return;
              hovered.value = null;
              active.value = focused.value;
            },
            onFocusIn: (event: FocusEvent) => {
              focused.value = keyAt(event.target) ?? focused.value;
              if (!isTouched.current) active.value = focused.value;
            },
            onFocusOut: (event: FocusEvent) => {
              const to = event.relatedTarget;
              if (to instanceof Node && (event.currentTarget as Node).contains(to)) return;
              focused.value = null;
              active.value = hovered.value;
            },
          }}
        />
      )}
      {(!isAtEnd.value || !attached) && rows.length > 0 && (
        <button
          type="button"
          class="to-end"
          aria-label={newCount ? `Jump to the newest message, ${newCount} new` : "Jump to the newest message"}
          onClick={() => void toEnd()}
        >
          {newCount > 0 && <span class="count">{newCount > 99 ? "99+" : newCount}</span>}
          <Icon name="down" />
        </button>
      )}
      {pickingMessage && (
        <EmojiPicker
          returnFocus={() => focusMessage(pickingMessage.seq)}
          onClose={() => {
            picking.value = null;
          }}
          onPick={(sign) => {
            picking.value = null;
            actions.react(pickingMessage, sign);
          }}
        />
      )}
      {deleted !== null && (
        <Confirm
          title="Delete message?"
          verb="Delete"
          returnFocus={() => focusMessage(deleted)}
          onClose={() => {
            deleting.value = null;
          }}
          onConfirm={() => {
            deleting.value = null;
            chat.change(room.id, { op: "message.delete", seq: deleted });
          }}
        >
          Its text is erased for everybody. This cannot be undone.
        </Confirm>
      )}
    </section>
  );
}

function keyAt(target: EventTarget | null): string | null {
  const element = target instanceof Element ? target.closest<HTMLElement>("[data-key]") : null;
  return element?.dataset.key ?? null;
}

/** The message one jumps to may have become part of another row: then the one after it. */
function nextRow(rows: readonly Row[], seq: number): Row | undefined {
  return rows.find((row) => (seqOf(row) ?? 0) > seq);
}

function retryLoad(
  what: "page" | "older" | "newer" | null,
  room: string,
  chat: ReturnType<typeof useChat>,
): Promise<void> {
  if (what === "older") return chat.timelines.older(room);
  if (what === "newer") return chat.timelines.newer(room);
  return chat.timelines.open(room);
}
