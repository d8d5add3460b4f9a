/** The main screen: rooms on the left, one room beside them, dialogs above. */

import { useEffect, useRef } from "preact/hooks";
import { recall, remember } from "../../client/memory";
import { mayInvite } from "../../state/people";
import { sectionsOf, titleOf } from "../../state/rooms";
import { useChat } from "../context";
import { Dialogs } from "../dialogs/Dialogs";
import { Icon } from "../icons";
import { actionOf } from "../keymap";
import { layer } from "../layer";
import { openDialogs } from "../parts/Dialog";
import { Toast } from "../parts/Toast";
import { navigate, roomPath, route } from "../router";
import { Announcements } from "./Announcements";
import { Banner } from "./Banner";
import { isInfoOpen } from "./panels";
import { Refusal, refusalOf } from "./Refusal";
import { NoRoom, RoomView } from "./RoomView";
import { Sidebar } from "./Sidebar";

/** Where the room's details lie over the room: the same width as in `shell.css`. */
const isInfoOver = matchMedia("(max-width: 1100px)");

const lastRoomKey = (user: string) => `securechat-room-${user}`;

export function Shell() {
  const chat = useChat();
  const here = route.value;
  const roomId = here.name === "room" ? here.room : null;
  const room = roomId ? chat.rooms.value.get(roomId) : undefined;

  useEffect(() => {
    void chat.open(roomId);
    if (roomId) remember(lastRoomKey(chat.me.peek().id), roomId);
  }, [roomId]);

  // The address without a room, at the beginning of a visit: go where one was last. Later it means the list of rooms.
  const isBegun = useRef(false);
  const isLoaded = chat.isLoaded.value;
  useEffect(() => {
    if (isBegun.current || (!isLoaded && here.name === "home")) return;
    isBegun.current = true;
    const last = recall(lastRoomKey(chat.me.peek().id));
    if (here.name === "home" && last && chat.rooms.peek().has(last)) navigate(roomPath(last), true);
  }, [isLoaded, here.name]);

  const unread = chat.unreadTotal.value;
  const title = room ? (room.kind === "direct" ? titleOf(room) : `#${titleOf(room)}`) : "";
  useEffect(() => {
    const count = unread ? `(${unread}) ` : "";
    document.title = count + [title, chat.serverName.value].filter(Boolean).join(" - ");
  }, [unread, title, chat.serverName.value]);

  useEffect(() => {
    const check = () => {
      if (document.visibilityState === "visible") chat.check();
      else chat.drafts.flush(); // The last moment that a phone tells of.
    };
    const leave = () => chat.drafts.flush();
    document.addEventListener("visibilitychange", check);
    addEventListener("online", check);
    addEventListener("pagehide", leave);
    return () => {
      document.removeEventListener("visibilitychange", check);
      removeEventListener("online", check);
      removeEventListener("pagehide", leave);
    };
  }, [chat]);

  useEffect(() => {
    const go = (by: number, onlyUnread: boolean) => {
      const {
        unread: fresh,
        rooms,
        people,
      } = sectionsOf(chat.rooms.peek(), chat.activeId.peek(), chat.activeWasUnread.peek());
      const all = [...fresh, ...rooms, ...people];
      const at = all.findIndex((one) => one.id === chat.activeId.peek());
      for (let steps = 1; steps <= all.length; steps += 1) {
        const from = at < 0 && by > 0 ? -1 : Math.max(at, 0);
        const next = all[(from + by * steps + all.length * steps) % all.length];
        if (!next || (onlyUnread && !next.unread)) continue;
        navigate(roomPath(next.id));
        return;
      }
    };
    const run: Partial<Record<string, () => void>> = {
      switcher: () => {
        layer.value = layer.peek()?.name === "switcher" ? null : { name: "switcher" };
      },
      shortcuts: () => {
        layer.value = { name: "shortcuts" };
      },
      info: () => {
        isInfoOpen.value = !isInfoOpen.peek();
      },
      "room.previous": () => go(-1, false),
      "room.next": () => go(1, false),
      "unread.previous": () => go(-1, true),
      "unread.next": () => go(1, true),
    };
    const onKeyDown = (event: KeyboardEvent) => {
      if (event.key === "Escape" && !event.defaultPrevented && layer.peek() === null && isInfoOver.matches) {
        isInfoOpen.value = false;
      }
      const action = actionOf(event, "everywhere");
      const found = action && (layer.peek() === null || action === "switcher") ? run[action] : undefined;
      if (!found) return;
      event.preventDefault();
      found();
    };
    addEventListener("keydown", onKeyDown);
    return () => removeEventListener("keydown", onKeyDown);
  }, [chat]);

  const refusal = refusalOf(chat.connection.value);
  if (refusal) return <Refusal link={refusal} />;
  return (
    <div class={`shell ${roomId ? "has-room" : ""}`}>
      <Banner />
      <Sidebar isAlone={!roomId} />
      {room && <RoomView room={room} />}
      {roomId && !room && chat.isLoaded.value && <NoRoom id={roomId} />}
      {roomId && !room && !chat.isLoaded.value && <main class="room" aria-label="Room" aria-busy="true" />}
      {!roomId && <Nowhere />}
      <Dialogs />
      {!openDialogs.value.length && <Toast />}
      <Announcements />
    </div>
  );
}

function Nowhere() {
  const chat = useChat();
  return (
    <main class="room room-none" aria-label="No room chosen">
      {chat.isLoaded.value && (
        <div class="empty">
          <span class="room-sign">
            <Icon name="message" size={28} />
          </span>
          <h1 class="empty-title">
            {route.value.name === "nowhere"
              ? "There is no such page"
              : chat.rooms.value.size
                ? "Choose a room"
                : `Welcome to ${chat.serverName.value}`}
          </h1>
          <p>
            {chat.rooms.value.size
              ? "Pick a room on the left, or press Ctrl K to go anywhere."
              : route.value.name === "nowhere"
                ? "The address may be mistyped, or what was here is gone."
                : mayInvite(chat.me.value)
                  ? "Create a room, and invite people to it."
                  : "Create a room, browse the public ones, or write to somebody."}
          </p>
          <div class="empty-actions">
            {mayInvite(chat.me.value) && (
              <button type="button" class="button" onClick={() => (layer.value = { name: "invite", rooms: [] })}>
                <Icon name="userPlus" size={18} /> Invite people
              </button>
            )}
            <button type="button" class="button" onClick={() => (layer.value = { name: "create" })}>
              <Icon name="hash" size={18} /> Create a room
            </button>
            <button type="button" class="button" onClick={() => (layer.value = { name: "direct" })}>
              <Icon name="message" size={18} /> Write to somebody
            </button>
            <button type="button" class="button" onClick={() => (layer.value = { name: "browse" })}>
              <Icon name="compass" size={18} /> Browse rooms
            </button>
          </div>
        </div>
      )}
    </main>
  );
}
