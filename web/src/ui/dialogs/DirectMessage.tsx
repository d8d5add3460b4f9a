import { useChat } from "../context";
import { Dialog } from "../parts/Dialog";
import { navigate, roomPath } from "../router";
import { PeopleSearch } from "./PeopleSearch";

export function DirectMessage({ onClose }: { onClose: () => void }) {
  const chat = useChat();
  const open = async (user: string) => {
    const isOpen = await chat.attempt(
      chat.call("room.direct", { user }).then((room) => {
        chat.opened(room);
        navigate(roomPath(room.id));
      }),
    );
    if (isOpen) onClose();
  };
  return (
    <Dialog title="New direct message" onClose={onClose}>
      <PeopleSearch verb="Message" exclude={new Set([chat.me.value.id])} onChoose={(user) => void open(user.id)} />
    </Dialog>
  );
}
