import { useChat } from "../context";
import { layer } from "../layer";
import { Dialog } from "../parts/Dialog";
import { NewInvitation } from "./NewInvitation";

export function InvitePeople({ rooms, onClose }: { rooms: readonly string[]; onClose: () => void }) {
  const chat = useChat();
  return (
    <Dialog title={`Invite people to ${chat.serverName.value}`} onClose={onClose}>
      <NewInvitation rooms={rooms} />
      <p class="hint">
        Links that still work are in{" "}
        <button type="button" class="link-button" onClick={() => (layer.value = { name: "settings" })}>
          Settings
        </button>
        , where you can end them.
      </p>
    </Dialog>
  );
}
