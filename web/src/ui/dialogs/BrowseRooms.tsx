import { useEffect, useState } from "preact/hooks";
import type { RoomSummary } from "../../protocol/messages";
import { useChat } from "../context";
import { Icon } from "../icons";
import { layer } from "../layer";
import { Dialog } from "../parts/Dialog";
import { navigate, roomPath } from "../router";

const WAIT_MS = 150;

export function BrowseRooms({ onClose }: { onClose: () => void }) {
  const chat = useChat();
  const [query, setQuery] = useState("");
  const [found, setFound] = useState<readonly RoomSummary[] | null>(null);
  const [cursor, setCursor] = useState<string | null>(null);
  useEffect(() => {
    let isStale = false;
    const timer = setTimeout(() => {
      chat.call("room.browse", { query: query.trim().replace(/^#/, "") }).then(
        (page) => {
          if (isStale) return;
          setFound(page.rooms);
          setCursor(page.next_cursor);
        },
        () => {
          if (!isStale) setFound([]);
        },
      );
    }, WAIT_MS);
    return () => {
      isStale = true;
      clearTimeout(timer);
    };
  }, [query]);
  const more = async () => {
    const page = await chat.call("room.browse", { query: query.trim(), cursor: cursor ?? "" });
    setFound([...(found ?? []), ...page.rooms]);
    setCursor(page.next_cursor);
  };
  const enter = async (room: RoomSummary) => {
    const isIn = chat.rooms.value.has(room.id);
    const hasWorked =
      isIn || (await chat.attempt(chat.call("room.join", { room: room.id }).then((joined) => chat.opened(joined))));
    if (!hasWorked) return;
    navigate(roomPath(room.id));
    onClose();
  };
  return (
    <Dialog title="Browse rooms" size="large" onClose={onClose}>
      {/* biome-ignore-start lint/a11y/noAutofocus: the dialog is opened to search. */}
      <input
        type="search"
        aria-label="Find a public room"
        placeholder="Name of a public room"
        autoFocus
        value={query}
        onInput={(event) => setQuery(event.currentTarget.value)}
      />
      {/* biome-ignore-end lint/a11y/noAutofocus: as above. */}
      {found === null && <div class="skeleton skeleton-line" />}
      <ul class="choices" aria-label="Public rooms">
        {found?.map((room) => {
          const verb = chat.rooms.value.has(room.id) ? "Open" : "Join";
          return (
            <li key={room.id}>
              <button type="button" class="choice" onClick={() => void enter(room)}>
                <span class="hidden">{verb}</span>
                <span class="room-kind">
                  <Icon name="hash" />
                </span>
                <span class="choice-names">
                  <span class="choice-name">{room.name}</span>
                  <span class="hint">
                    {[`${room.members ?? 0} ${room.members === 1 ? "member" : "members"}`, room.topic]
                      .filter(Boolean)
                      .join(" · ")}
                  </span>
                </span>
                <span class="choice-verb" aria-hidden="true">
                  {verb}
                </span>
              </button>
            </li>
          );
        })}
      </ul>
      {found?.length === 0 && (
        <div class="empty">
          <p class="empty-title">No public rooms found</p>
          <button type="button" class="button" onClick={() => (layer.value = { name: "create" })}>
            Create one
          </button>
        </div>
      )}
      {cursor && (
        <button type="button" class="button button-wide" onClick={() => void chat.attempt(more())}>
          Show more
        </button>
      )}
    </Dialog>
  );
}
