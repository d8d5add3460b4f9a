import { useEffect, useId, useState } from "preact/hooks";
import type { User } from "../../protocol/messages";
import { type Room, titleOf } from "../../state/rooms";
import { useChat } from "../context";
import { Icon } from "../icons";
import { isComposing } from "../keymap";
import { Avatar } from "../parts/Avatar";
import { Dialog } from "../parts/Dialog";
import { navigate, roomPath } from "../router";
import { search, type Target } from "./switch";

const MOST = 12;
const WAIT_MS = 120;

type Found = Target & ({ room: Room } | { user: User });

/** Go anywhere by typing a part of its name. */
export function Switcher({ onClose }: { onClose: () => void }) {
  const chat = useChat();
  const [query, setQuery] = useState("");
  const [highlighted, setHighlighted] = useState(0);
  const [people, setPeople] = useState<readonly User[]>([]);
  const id = useId();
  useEffect(() => {
    let isStale = false;
    const timer = setTimeout(() => {
      chat.people.find(query.trim().replace(/^@/, ""), 10).then(
        (users) => {
          if (!isStale) setPeople(users);
        },
        () => {},
      );
    }, WAIT_MS);
    return () => {
      isStale = true;
      clearTimeout(timer);
    };
  }, [query]);

  const rooms = [...chat.rooms.value.values()];
  const peers = new Set(rooms.map((room) => room.peer?.id));
  const targets: Found[] = rooms.map((room) => ({
    key: room.id,
    title: titleOf(room),
    hint: room.peer ? room.peer.username : "",
    weight: room.unread > 0 ? 2 : 1,
    room,
  }));
  for (const user of people) {
    if (peers.has(user.id) || user.id === chat.me.value.id || user.disabled) continue;
    targets.push({ key: user.id, title: user.display_name || user.username, hint: user.username, weight: 0, user });
  }
  const found = search(targets, query, MOST);
  const choice = Math.min(highlighted, found.length - 1);

  const go = async (target: Found | undefined) => {
    if (!target) return;
    if ("room" in target) navigate(roomPath(target.room.id));
    else {
      const hasWorked = await chat.attempt(
        chat.call("room.direct", { user: target.user.id }).then((room) => {
          chat.opened(room);
          navigate(roomPath(room.id));
        }),
      );
      if (!hasWorked) return;
    }
    onClose();
  };

  const onKeyDown = (event: KeyboardEvent) => {
    if (isComposing(event)) return;
    const move = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    if (move && found.length) setHighlighted((Math.max(choice, 0) + move + found.length) % found.length);
    else if (event.key === "Enter") void go(found[choice]);
    else return;
    event.preventDefault();
  };

  return (
    <Dialog title="Go to a room or person" isBare onClose={onClose}>
      <div class="switcher">
        <div class="switcher-field">
          <Icon name="search" />
          {/* biome-ignore-start lint/a11y/noAutofocus: the dialog is opened to type. */}
          <input
            type="text"
            role="combobox"
            aria-label="Go to a room or person"
            aria-expanded={found.length > 0}
            aria-controls={id}
            aria-autocomplete="list"
            aria-activedescendant={found.length ? `${id}-${choice}` : undefined}
            placeholder="Go to a room or person"
            autoComplete="off"
            spellcheck={false}
            autoFocus
            value={query}
            onInput={(event) => {
              setQuery(event.currentTarget.value);
              setHighlighted(0);
            }}
            onKeyDown={onKeyDown}
          />
          {/* biome-ignore-end lint/a11y/noAutofocus: as above. */}
        </div>
        <div class="switcher-list" role="listbox" id={id} aria-label="Rooms and people">
          {found.map((target, index) => (
            // biome-ignore lint/a11y/useKeyWithClickEvents: the keys are those of the field, which keeps the focus.
            <div
              key={target.key}
              id={`${id}-${index}`}
              role="option"
              tabIndex={-1}
              class="option"
              aria-selected={index === choice}
              onClick={() => void go(target)}
            >
              <TargetSign target={target} />
              <span class="option-label">{target.title}</span>
              <span class="option-hint">{target.hint && `@${target.hint}`}</span>
              {"room" in target && target.room.unread > 0 && <span class="count">{target.room.unread}</span>}
            </div>
          ))}
        </div>
        {!found.length && <p class="hint switcher-none">Nothing found</p>}
      </div>
    </Dialog>
  );
}

function TargetSign({ target }: { target: Found }) {
  if ("user" in target) return <Avatar id={target.user.id} name={target.title} size="small" />;
  const { room } = target;
  if (room.kind === "direct") return <Avatar id={room.peer?.id ?? room.id} name={target.title} size="small" />;
  return (
    <span class="room-kind">
      <Icon name={room.kind === "private" ? "lock" : "hash"} size={18} />
    </span>
  );
}
