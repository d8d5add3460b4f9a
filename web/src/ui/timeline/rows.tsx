/** The rows that are no messages, and messages on their way. */

import type { Entry } from "../../protocol/messages";
import { type Room, titleOf } from "../../state/rooms";
import type { FoldedRow } from "../../state/rows";
import { Icon } from "../icons";
import { Avatar } from "../parts/Avatar";
import { dayOf, timeOf } from "../when";

export function DayLine({ at }: { at: number }) {
  return (
    <div class="day-line">
      <span>{dayOf(at)}</span>
    </div>
  );
}

export function NewLine() {
  return (
    <div class="new-line">
      <span>New</span>
    </div>
  );
}

/** The very beginning of a room. */
export function RoomStart({ room, onAdd }: { room: Room; onAdd: () => void }) {
  const title = titleOf(room);
  if (room.kind === "direct") {
    return (
      <article class="room-start" aria-label="Beginning of the conversation" tabIndex={-1}>
        <Avatar id={room.peer?.id ?? room.id} name={title} size="large" />
        <h2>{title}</h2>
        <p>
          This is the beginning of your direct messages. Only the two of you are here; whoever runs the server could
          read it too.
        </p>
      </article>
    );
  }
  return (
    <article class="room-start" aria-label="Beginning of the room" tabIndex={-1}>
      <span class="room-sign">
        <Icon name={room.kind === "private" ? "lock" : "hash"} size={28} />
      </span>
      <h2>{title}</h2>
      <p>
        {room.topic ||
          (room.kind === "private"
            ? "A private room: only its members know of it."
            : "A public room: everybody on this server can join.")}
      </p>
      <button type="button" class="button" onClick={onAdd}>
        <Icon name="userPlus" size={18} /> Add people
      </button>
    </article>
  );
}

/** Return what happened, as a sentence. */
export function noticeText(entry: Entry, me: string, nameOf: (user: string) => string): string {
  const who = entry.user === me ? "You" : nameOf(entry.user);
  const whom = entry.member === me ? "you" : nameOf(entry.member ?? "");
  switch (entry.type) {
    case "room.created":
      return entry.kind === "direct" ? `${who} began the conversation` : `${who} created the room`;
    case "room.updated":
      if (entry.subscribed !== undefined)
        return `${who} subscribed ${entry.subscribed}: what happens here is sent there from now on`;
      if (entry.unsubscribed !== undefined) return `${who} ended a subscription of ${entry.unsubscribed}`;
      if (entry.name !== undefined && entry.topic === undefined) return `${who} renamed the room to “${entry.name}”`;
      if (entry.name === undefined && entry.topic) return `${who} set the topic to “${entry.topic}”`;
      if (entry.name === undefined && entry.topic === "") return `${who} removed the topic`;
      return `${who} changed the room`;
    case "room.erased":
      return `${who} erased everything before this`;
    case "member.joined":
      return entry.member === entry.user ? `${who} joined` : `${who} added ${whom}`;
    case "member.left":
      return `${entry.member === me ? "You" : whom} left`;
    case "member.removed":
      return `${who} removed ${whom}`;
    default:
      return "Something happened that this version does not know";
  }
}

export function NoticeLine({ text, at, isFocusable }: { text: string; at: number; isFocusable: boolean }) {
  return (
    <article class="notice" aria-label={`${text}, ${timeOf(at)}`} tabIndex={isFocusable ? 0 : -1}>
      <span>{text}</span>
      <time dateTime={new Date(at).toISOString()}>{timeOf(at)}</time>
    </article>
  );
}

export function FoldedLine({ row, isFocusable, onShow }: { row: FoldedRow; isFocusable: boolean; onShow: () => void }) {
  const text = row.count === 1 ? "1 message" : `${row.count} messages`;
  return (
    <article class="notice" aria-label={`${text} from somebody you blocked`} tabIndex={isFocusable ? 0 : -1}>
      <Icon name="ban" size={14} />
      <span>{text} from somebody you blocked</span>
      <button type="button" class="link-button" onClick={onShow}>
        Show
      </button>
    </article>
  );
}
