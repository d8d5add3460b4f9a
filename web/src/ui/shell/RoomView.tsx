/** One room: its head, timeline and composer. */

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { type Room, titleOf } from "../../state/rooms";
import { Composer } from "../composer/Composer";
import { useChat } from "../context";
import { Icon } from "../icons";
import { Avatar } from "../parts/Avatar";
import { navigate } from "../router";
import { Timeline } from "../timeline/Timeline";
import { InfoPanel } from "./InfoPanel";
import { isInfoOpen } from "./panels";
import { useMembers } from "./useMembers";

export function RoomView({ room }: { room: Room }) {
  const chat = useChat();
  const field = useRef<HTMLTextAreaElement | null>(null);
  const members = useMembers(room);
  const title = titleOf(room);
  const isOnline = room.peer ? chat.people.online.value.has(room.peer.id) : undefined;
  const write = () => requestAnimationFrame(() => field.current?.focus());
  useEffect(() => {
    // On a touch screen the keyboard would cover what one came to read.
    if (matchMedia("(pointer: fine)").matches) field.current?.focus();
  }, [room.id]);
  return (
    <>
      <main class="room" aria-label={room.kind === "direct" ? title : `#${title}`}>
        <header class="room-head">
          <button type="button" class="icon-button back" aria-label="Back to rooms" onClick={() => navigate("/")}>
            <Icon name="back" />
          </button>
          {room.kind === "direct" ? (
            <Avatar id={room.peer?.id ?? room.id} name={title} size="small" isOnline={isOnline} />
          ) : (
            <span class="room-kind">
              <Icon name={room.kind === "private" ? "lock" : "hash"} />
            </span>
          )}
          <div class="room-title">
            <h1>{title}</h1>
            <p class="room-topic">{room.kind === "direct" ? (isOnline ? "Online" : "Offline") : room.topic}</p>
          </div>
          <button
            type="button"
            class="icon-button"
            title="Room details"
            aria-expanded={isInfoOpen.value}
            onClick={() => {
              isInfoOpen.value = !isInfoOpen.value;
            }}
          >
            <Icon name={room.kind === "direct" ? "info" : "users"} />
            <span class="hidden">Room details</span>
            {room.kind !== "direct" && (
              <span class="head-count">
                {room.members}
                <span class="hidden"> members</span>
              </span>
            )}
          </button>
        </header>
        <Timeline key={room.id} room={room} onWrite={write} />
        <TypingLine room={room.id} />
        <Composer key={`composer-${room.id}`} room={room} members={members.users} field={field} />
      </main>
      {isInfoOpen.value && <InfoPanel room={room} members={members} />}
    </>
  );
}

function TypingLine({ room }: { room: string }) {
  const chat = useChat();
  const blocked = chat.blocked.value;
  const users = (chat.people.typing.value.get(room) ?? []).filter((user) => !blocked.has(user));
  const names = users.map((user) => chat.people.name(user));
  let text = "";
  if (names.length === 1) text = `${names[0]} is typing…`;
  else if (names.length === 2) text = `${names[0]} and ${names[1]} are typing…`;
  else if (names.length > 2) text = "Several people are typing…";
  return (
    <p class="typing" aria-live="off">
      {text && (
        <>
          <span class="typing-dots" aria-hidden="true">
            <i />
            <i />
            <i />
          </span>
          {text}
        </>
      )}
    </p>
  );
}

/** A room that one is no member of, or that does not exist. */
export function NoRoom({ id }: { id: string }) {
  const chat = useChat();
  const found = useSignal<{ name: string } | null>(null);
  useEffect(() => {
    found.value = null;
    if (!chat.isLoaded.value) return;
    chat.call("room.get", { room: id }).then(
      (room) => {
        if (room.kind === "public") found.value = { name: room.name ?? "" };
      },
      () => {},
    );
  }, [id, chat.isLoaded.value]);
  return (
    <main class="room room-none" aria-label="Room">
      <div class="empty">
        <h1 class="empty-title">{found.value ? `#${found.value.name}` : "This room is not here"}</h1>
        <p>
          {found.value ? "You are not in this public room." : "It does not exist, or you are not one of its members."}
        </p>
        <div class="empty-actions">
          {found.value && (
            <button
              type="button"
              class="button button-primary"
              onClick={() => void chat.attempt(chat.call("room.join", { room: id }).then((room) => chat.opened(room)))}
            >
              Join
            </button>
          )}
          <button type="button" class="button" onClick={() => navigate("/")}>
            Back to rooms
          </button>
        </div>
      </div>
    </main>
  );
}
