/** Find a person by the beginnings of words of their names, and choose one. */

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { User } from "../../protocol/messages";
import { mayInvite } from "../../state/people";
import { useChat } from "../context";
import { Icon } from "../icons";
import { layer } from "../layer";
import { Avatar } from "../parts/Avatar";

const WAIT_MS = 120;

interface Props {
  /** The word on the button that chooses, for example "Add". */
  verb: string;
  exclude: ReadonlySet<string>;
  onChoose: (user: User) => void;
  note?: (user: User) => ComponentChildren;
  /** The room that this is about: an invitation that is offered leads there. */
  room?: string;
}

export function PeopleSearch({ verb, exclude, onChoose, note, room }: Props) {
  const chat = useChat();
  const [query, setQuery] = useState("");
  const [found, setFound] = useState<readonly User[] | null>(null);
  const [hasFailed, setFailed] = useState(false);
  useEffect(() => {
    let isStale = false;
    const timer = setTimeout(() => {
      chat.people.find(query.trim().replace(/^@/, ""), 30).then(
        (users) => {
          if (isStale) return;
          setFound(users);
          setFailed(false);
        },
        () => {
          if (!isStale) setFailed(true);
        },
      );
    }, WAIT_MS);
    return () => {
      isStale = true;
      clearTimeout(timer);
    };
  }, [query]);
  const shown = (found ?? []).filter((user) => !exclude.has(user.id) && !user.disabled);
  return (
    <div class="people-search">
      {/* biome-ignore-start lint/a11y/noAutofocus: the dialog is opened to search. */}
      <input
        type="search"
        aria-label="Find a person"
        placeholder="Name or username"
        autoComplete="off"
        autoFocus
        value={query}
        onInput={(event) => setQuery(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "Enter" && shown[0]) {
            event.preventDefault();
            onChoose(shown[0]);
          }
        }}
      />
      {/* biome-ignore-end lint/a11y/noAutofocus: as above. */}
      <ul class="choices" aria-label="People">
        {shown.map((user) => {
          const name = user.display_name || user.username;
          return (
            <li key={user.id}>
              <button type="button" class="choice" onClick={() => onChoose(user)}>
                <span class="hidden">{verb}</span>
                <Avatar id={user.id} name={name} isOnline={chat.people.online.value.has(user.id)} />
                <span class="choice-names">
                  <span class="choice-name">{name}</span>
                  <span class="hint">
                    @{user.username}
                    {user.role === "bot" && " · bot"}
                  </span>
                </span>
                {note?.(user)}
                <span class="choice-verb" aria-hidden="true">
                  {verb}
                </span>
              </button>
            </li>
          );
        })}
      </ul>
      {hasFailed && <p class="hint">Could not search. Are you connected?</p>}
      {found && !shown.length && !hasFailed && <Nobody isSearch={query.trim() !== ""} room={room} />}
    </div>
  );
}

/** Nobody is there to choose: those who may bring people in are offered that. */
function Nobody({ isSearch, room }: { isSearch: boolean; room: string | undefined }) {
  const chat = useChat();
  return (
    <div class="empty">
      <p class="empty-title">{isSearch ? "Nobody found" : "Nobody else is here yet"}</p>
      {mayInvite(chat.me.value) ? (
        <button
          type="button"
          class="button"
          onClick={() => (layer.value = { name: "invite", rooms: room ? [room] : [] })}
        >
          <Icon name="userPlus" size={18} /> Invite people
        </button>
      ) : (
        <p>Who runs this server can invite people.</p>
      )}
    </div>
  );
}
