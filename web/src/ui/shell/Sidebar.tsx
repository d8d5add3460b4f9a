/** The rooms and people that one talks with. */

import { useEffect, useState } from "preact/hooks";
import { mayInvite } from "../../state/people";
import { type Room, sectionsOf, titleOf } from "../../state/rooms";
import { useChat } from "../context";
import { Icon, Logo } from "../icons";
import { layer } from "../layer";
import { Avatar } from "../parts/Avatar";
import { Menu, type MenuItem } from "../parts/Menu";
import { follow, roomPath } from "../router";

const narrow = matchMedia("(max-width: 767px)");
const isMac = /Mac|iP(hone|ad)/.test(navigator.platform);

/** Below 768 px the list of rooms is a page of its own. */
function useIsNarrow(): boolean {
  const [isNarrow, setNarrow] = useState(narrow.matches);
  useEffect(() => {
    const look = () => setNarrow(narrow.matches);
    narrow.addEventListener("change", look);
    return () => narrow.removeEventListener("change", look);
  }, []);
  return isNarrow;
}

export function Sidebar({ isAlone }: { isAlone: boolean }) {
  const chat = useChat();
  const isPage = useIsNarrow() && isAlone;
  // Inside of the main landmark there is no banner and no content information.
  const [Head, Foot] = isPage ? (["div", "div"] as const) : (["header", "footer"] as const);
  const Name = isPage ? "h1" : "span";
  const rooms = chat.rooms.value;
  const sections = sectionsOf(rooms, chat.activeId.value, chat.activeWasUnread.value);
  const me = chat.me.value;
  const here = rooms.get(chat.activeId.value ?? "");
  const isOffline = chat.offlineSince.value !== null;
  const unsent = chat.pending.value.filter((item) => item.refused).length;
  return (
    <div class="sidebar" role={isPage ? "main" : undefined}>
      <Head class="sidebar-head">
        <Logo size={28} />
        <Name class="server-name">{chat.serverName.value}</Name>
        <Menu label="New" items={newItems(mayInvite(me), here && here.kind !== "direct" ? [here.id] : [])}>
          <Icon name="plus" />
        </Menu>
      </Head>
      <button type="button" class="search-button" onClick={() => (layer.value = { name: "switcher" })}>
        <Icon name="search" size={16} />
        <span>Go to…</span>
        <span class="hidden">a room or person</span>
        <kbd>{isMac ? "⌘ K" : "Ctrl K"}</kbd>
      </button>
      <nav class="room-list" aria-label="Rooms">
        {!chat.isLoaded.value && <RoomSkeletons />}
        {chat.isLoaded.value && chat.isComplete.value && rooms.size === 0 && <NoRooms />}
        {rooms.size > 0 && (
          <>
            <Section title="Unread" rooms={sections.unread} />
            <Section title="Rooms" rooms={sections.rooms} />
            <Section title="Direct messages" rooms={sections.people} />
          </>
        )}
        {rooms.size > 0 && (
          <div class="more">
            <button type="button" class="more-button" onClick={() => (layer.value = { name: "browse" })}>
              <Icon name="compass" size={18} /> Browse rooms
            </button>
            <button type="button" class="more-button" onClick={() => (layer.value = { name: "direct" })}>
              <Icon name="message" size={18} /> New direct message
            </button>
          </div>
        )}
      </nav>
      <Foot class="sidebar-foot">
        <Avatar id={me.id} name={me.display_name || me.username} isOnline={!isOffline} />
        <span class="me">
          <span class="me-name" title={me.display_name || me.username}>
            {me.display_name || me.username}
          </span>
          <span class="me-state">
            {unsent ? `${unsent} not sent` : isOffline ? "Not connected" : `@${me.username}`}
          </span>
        </span>
        <SealMark />
        <button
          type="button"
          class="icon-button"
          aria-label="Settings"
          title="Settings"
          onClick={() => (layer.value = { name: "settings" })}
        >
          <Icon name="settings" />
        </button>
      </Foot>
    </div>
  );
}

function newItems(isInviter: boolean, rooms: readonly string[]): MenuItem[] {
  const items: MenuItem[] = [
    { icon: "hash", label: "Create room", onChoose: () => (layer.value = { name: "create" }) },
    { icon: "message", label: "Write to somebody", onChoose: () => (layer.value = { name: "direct" }) },
    { icon: "compass", label: "Browse rooms", onChoose: () => (layer.value = { name: "browse" }) },
  ];
  if (isInviter) {
    items.push({
      icon: "userPlus",
      label: "Invite people",
      onChoose: () => (layer.value = { name: "invite", rooms }),
    });
  }
  return items;
}

/** Quiet when the connection is sealed as always, in words at the first time and when it is not. */
function SealMark() {
  const chat = useChat();
  const seal = chat.seal.value;
  if (!seal || chat.offlineSince.value !== null) return null;
  const open = () => (layer.value = { name: "connection" });
  if ("clear" in seal) {
    return (
      <button type="button" class="seal-mark seal-open" title="How the connection is protected" onClick={open}>
        Not sealed
      </button>
    );
  }
  if (seal.sealed.isFirst) {
    return (
      <button
        type="button"
        class="seal-mark"
        title="From now on this browser knows the server by its key"
        onClick={open}
      >
        <Icon name="lock" size={14} /> Sealed
      </button>
    );
  }
  return (
    <button type="button" class="icon-button" aria-label="Sealed connection" title="Sealed connection" onClick={open}>
      <Icon name="lock" />
    </button>
  );
}

function Section({ title, rooms }: { title: string; rooms: readonly Room[] }) {
  if (!rooms.length) return null;
  const id = `section-${title.replace(" ", "-").toLowerCase()}`;
  return (
    <section class="section" aria-labelledby={id}>
      <h2 id={id}>{title}</h2>
      <ul>
        {rooms.map((room) => (
          <RoomItem key={room.id} room={room} />
        ))}
      </ul>
    </section>
  );
}

function RoomItem({ room }: { room: Room }) {
  const chat = useChat();
  const isActive = chat.activeId.value === room.id;
  const title = titleOf(room);
  const isFailed = chat.pending.value.some((item) => item.room === room.id && item.refused);
  const hasDraft = !isActive && chat.drafts.of(room.id).value.text.trim() !== "";
  const isOnline = room.peer && room.kind === "direct" ? chat.people.online.value.has(room.peer.id) : undefined;
  const words = [isOnline && "online", isFailed && "has messages that were not sent", hasDraft && "has a draft"];
  return (
    <li>
      <a
        href={roomPath(room.id)}
        class={`room-item ${room.unread ? "is-unread" : ""}`}
        aria-current={isActive ? "page" : undefined}
        onClick={(event) => follow(event, roomPath(room.id))}
      >
        {room.kind === "direct" ? (
          <Avatar id={room.peer?.id ?? room.id} name={title} size="small" isOnline={isOnline} />
        ) : (
          <span class="room-kind">
            <Icon name={room.kind === "private" ? "lock" : "hash"} size={18} />
          </span>
        )}
        <span class="room-name">{title}</span>
        {hasDraft && <Icon name="edit" size={14} />}
        {isFailed && (
          <span class="failed-mark">
            <Icon name="alert" size={16} />
          </span>
        )}
        {room.unread > 0 && (
          <span class="count">
            {room.unread > 99 ? "99+" : room.unread}
            <span class="hidden"> unread</span>
          </span>
        )}
        <span class="hidden">{words.filter(Boolean).join(", ")}</span>
      </a>
    </li>
  );
}

function NoRooms() {
  return (
    <div class="empty">
      <p class="empty-title">No rooms yet</p>
      <p>Create a room for your group, or look at the public ones.</p>
      <div class="empty-actions">
        <button type="button" class="button button-primary" onClick={() => (layer.value = { name: "create" })}>
          Create
        </button>
        <button type="button" class="button" onClick={() => (layer.value = { name: "browse" })}>
          Browse
        </button>
      </div>
    </div>
  );
}

const WIDTHS = [62, 48, 75, 55, 68, 40, 58, 50];

function RoomSkeletons() {
  return (
    <div aria-busy="true">
      <span class="hidden">Loading rooms</span>
      {WIDTHS.map((width) => (
        <div key={width} class="room-item" aria-hidden="true">
          <span class="skeleton skeleton-dot" />
          <span class="skeleton skeleton-line" style={{ width: `${width}%` }} />
        </div>
      ))}
    </div>
  );
}
