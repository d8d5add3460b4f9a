/** What a room is, who is in it, and what one may do about that. */

import { useState } from "preact/hooks";
import type { Member } from "../../protocol/messages";
import { type Room, titleOf } from "../../state/rooms";
import { useChat } from "../context";
import { Icon } from "../icons";
import { layer } from "../layer";
import { Avatar } from "../parts/Avatar";
import { Confirm } from "../parts/Confirm";
import { navigate, roomPath } from "../router";
import { isInfoOpen } from "./panels";
import type { MembersView } from "./useMembers";

const KINDS = { public: "Public room", private: "Private room", direct: "Direct messages" };

export function InfoPanel({ room, members }: { room: Room; members: MembersView }) {
  const chat = useChat();
  const [isLeaving, setLeaving] = useState(false);
  const me = chat.me.value;
  const isDirect = room.kind === "direct";
  const isManager = !isDirect && (room.role === "owner" || me.role === "owner" || me.role === "admin");
  return (
    <aside class="info" aria-label="Room details">
      <header class="info-head">
        <h2>Details</h2>
        <button
          type="button"
          class="icon-button"
          aria-label="Close details"
          onClick={() => {
            isInfoOpen.value = false;
          }}
        >
          <Icon name="close" />
        </button>
      </header>
      <div class="info-body">
        <div class="info-title">
          <p class="info-name">{isDirect ? titleOf(room) : `#${titleOf(room)}`}</p>
          <p class="hint">{isDirect && room.peer ? `@${room.peer.username}` : KINDS[room.kind]}</p>
        </div>
        {!isDirect && <p class="info-topic">{room.topic || <span class="hint">No topic yet</span>}</p>}
        <div class="info-actions">
          {!isDirect && (
            <button type="button" class="button" onClick={() => (layer.value = { name: "add", room: room.id })}>
              <Icon name="userPlus" size={18} /> Add people
            </button>
          )}
          {isManager && (
            <button type="button" class="button" onClick={() => (layer.value = { name: "rename", room: room.id })}>
              <Icon name="edit" size={18} /> Name and topic
            </button>
          )}
          {!isDirect && (
            <button type="button" class="button button-quiet-danger" onClick={() => setLeaving(true)}>
              <Icon name="logout" size={18} /> Leave room
            </button>
          )}
          {isDirect && room.peer && <BlockButton user={room.peer.id} />}
        </div>
        {!isDirect && (
          <section aria-labelledby="members-title">
            <h3 id="members-title">
              {members.isLoaded ? `Members (${members.hasMore ? room.members : members.members.length})` : "Members"}
            </h3>
            {members.hasFailed && (
              <p class="hint">
                Could not load the members.{" "}
                <button type="button" class="link-button" onClick={members.reload}>
                  Try again
                </button>
              </p>
            )}
            <ul class="member-list" aria-label="Members">
              {members.members.map((member) => (
                <MemberItem
                  key={member.user.id}
                  member={member}
                  room={room}
                  isManager={isManager}
                  onChange={members.reload}
                />
              ))}
            </ul>
            {members.hasMore && (
              <button type="button" class="button" onClick={members.more}>
                Show more members
              </button>
            )}
          </section>
        )}
      </div>
      {isLeaving && (
        <Confirm
          title={`Leave #${titleOf(room)}?`}
          verb="Leave"
          onClose={() => setLeaving(false)}
          onConfirm={async () => {
            setLeaving(false);
            if (await chat.attempt(chat.call("room.leave", { room: room.id }))) {
              navigate("/");
              chat.closed(room.id);
            }
          }}
        >
          {room.kind === "private"
            ? "This room is private: to come back, somebody has to add you again."
            : "You can join this public room again at any time."}
        </Confirm>
      )}
    </aside>
  );
}

interface MemberProps {
  member: Member;
  room: Room;
  isManager: boolean;
  onChange: () => void;
}

function MemberItem({ member, room, isManager, onChange }: MemberProps) {
  const chat = useChat();
  const { user, role } = member;
  const isMe = user.id === chat.me.value.id;
  const name = user.display_name || user.username;
  const isOnline = isMe ? chat.offlineSince.value === null : chat.people.online.value.has(user.id);
  const isBlocked = chat.blocked.value.has(user.id);
  const words = [
    `@${user.username}`,
    role === "owner" && "owner",
    user.role === "bot" && "bot",
    isBlocked && "blocked",
  ];
  const openDirect = async () => {
    await chat.attempt(
      chat.call("room.direct", { user: user.id }).then((direct) => {
        chat.opened(direct);
        navigate(roomPath(direct.id));
      }),
    );
  };
  return (
    <li class="member">
      <Avatar id={user.id} name={name} isOnline={isOnline} />
      <span class="member-names">
        <span class="member-name">
          {name}
          {isMe && <span class="hint"> (you)</span>}
          <span class="hidden">, {isOnline ? "online" : "offline"}</span>
        </span>
        <span class="hint">{words.filter(Boolean).join(" · ")}</span>
      </span>
      {!isMe && (
        <span class="member-actions">
          <button
            type="button"
            class="icon-button icon-button-small"
            aria-label={`Message ${name}`}
            title="Message"
            onClick={() => void openDirect()}
          >
            <Icon name="message" size={16} />
          </button>
          <button
            type="button"
            class="icon-button icon-button-small"
            aria-label={isBlocked ? `Unblock ${name}` : `Block ${name}`}
            title={isBlocked ? "Unblock" : "Block"}
            aria-pressed={isBlocked}
            onClick={() => void chat.attempt(chat.block(user.id, !isBlocked))}
          >
            <Icon name="ban" size={16} />
          </button>
          {isManager && (
            <button
              type="button"
              class="icon-button icon-button-small"
              aria-label={`Remove ${name}`}
              title="Remove from the room"
              onClick={async () => {
                if (await chat.attempt(chat.call("member.remove", { room: room.id, user: user.id }))) onChange();
              }}
            >
              <Icon name="close" size={16} />
            </button>
          )}
        </span>
      )}
    </li>
  );
}

function BlockButton({ user }: { user: string }) {
  const chat = useChat();
  const isBlocked = chat.blocked.value.has(user);
  return (
    <button type="button" class="button" onClick={() => void chat.attempt(chat.block(user, !isBlocked))}>
      <Icon name="ban" size={18} /> {isBlocked ? "Unblock" : "Block"}
    </button>
  );
}
