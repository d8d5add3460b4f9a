import { useEffect, useState } from "preact/hooks";
import type { User } from "../../protocol/messages";
import { type Room, titleOf } from "../../state/rooms";
import { useChat } from "../context";
import { Dialog } from "../parts/Dialog";
import { PeopleSearch } from "./PeopleSearch";

export function AddMember({ room, onClose }: { room: Room; onClose: () => void }) {
  const chat = useChat();
  const [inside, setInside] = useState<ReadonlySet<string>>(new Set([chat.me.value.id]));
  useEffect(() => {
    chat.call("member.list", { room: room.id }).then(
      ({ members }) => setInside(new Set(members.map((member) => member.user.id))),
      // The server refuses nobody twice; the list only spares the question.
      () => {},
    );
  }, [room.id]);
  const add = async (user: User) => {
    if (!(await chat.attempt(chat.call("member.add", { room: room.id, user: user.id })))) return;
    setInside((before) => new Set(before).add(user.id));
    chat.tell(`${user.display_name || user.username} was added`);
  };
  return (
    <Dialog title={`Add people to #${titleOf(room)}`} onClose={onClose}>
      <PeopleSearch verb="Add" exclude={inside} room={room.id} onChoose={(user) => void add(user)} />
    </Dialog>
  );
}
