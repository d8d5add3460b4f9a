/** The members of a room, asked for again when somebody came or went. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { Member, User } from "../../protocol/messages";
import type { Room } from "../../state/rooms";
import { useChat } from "../context";

export interface MembersView {
  members: readonly Member[];
  users: readonly User[];
  isLoaded: boolean;
  hasFailed: boolean;
  /** There are more than these; `more` asks for the next page. */
  hasMore: boolean;
  more: () => void;
  reload: () => void;
}

export function useMembers(room: Room): MembersView {
  const chat = useChat();
  const members = useSignal<readonly Member[]>([]);
  const state = useSignal<"loading" | "loaded" | "failed">("loading");
  const attempt = useSignal(0);
  const next = useSignal<string | null>(null);
  const isAsking = useSignal(false);
  const learn = (found: readonly Member[]) => {
    chat.people.learn(found.map((member) => member.user));
    chat.people.present(Object.fromEntries(found.map((member) => [member.user.id, member.presence])));
  };
  const isOnline = chat.connection.value.phase === "online";
  useEffect(() => {
    if (!isOnline) return;
    let isStale = false;
    chat.call("member.list", { room: room.id }).then(
      (answer) => {
        if (isStale) return;
        members.value = answer.members;
        next.value = answer.next_cursor ?? null;
        state.value = "loaded";
        learn(answer.members);
      },
      () => {
        if (!isStale) state.value = "failed";
      },
    );
    return () => {
      isStale = true;
    };
  }, [room.id, room.members, isOnline, attempt.value]);
  const known = chat.people.users.value;
  const current = members.value.map((member) => ({ ...member, user: known.get(member.user.id) ?? member.user }));
  return {
    members: current,
    users: current.map((member) => member.user).filter((user) => user.id !== chat.me.value.id),
    isLoaded: state.value === "loaded",
    hasFailed: state.value === "failed",
    hasMore: next.value !== null,
    more: () => {
      const cursor = next.value;
      if (cursor === null || isAsking.value) return;
      isAsking.value = true;
      const page = chat.call("member.list", { room: room.id, cursor }).then((answer) => {
        if (next.value !== cursor) return;
        members.value = [...members.value, ...answer.members];
        next.value = answer.next_cursor ?? null;
        learn(answer.members);
      });
      void chat.attempt(page).finally(() => {
        isAsking.value = false;
      });
    },
    reload: () => {
      attempt.value += 1;
    },
  };
}
