import { useChat } from "../context";
import { closeLayer, layer } from "../layer";
import { AddMember } from "./AddMember";
import { BrowseRooms } from "./BrowseRooms";
import { ConnectionDetails } from "./ConnectionDetails";
import { CreateRoom } from "./CreateRoom";
import { DirectMessage } from "./DirectMessage";
import { InvitePeople } from "./InvitePeople";
import { RenameRoom } from "./RenameRoom";
import { Settings } from "./Settings";
import { Shortcuts } from "./Shortcuts";
import { Switcher } from "./Switcher";

/** The open dialog. */
export function Dialogs() {
  const chat = useChat();
  const open = layer.value;
  switch (open?.name) {
    case "switcher":
      return <Switcher onClose={closeLayer} />;
    case "shortcuts":
      return <Shortcuts onClose={closeLayer} />;
    case "settings":
      return <Settings onClose={closeLayer} />;
    case "connection":
      return <ConnectionDetails onClose={closeLayer} />;
    case "create":
      return <CreateRoom onClose={closeLayer} />;
    case "browse":
      return <BrowseRooms onClose={closeLayer} />;
    case "invite":
      return <InvitePeople rooms={open.rooms} onClose={closeLayer} />;
    case "direct":
      return <DirectMessage onClose={closeLayer} />;
    case "add":
    case "rename": {
      const room = chat.rooms.value.get(open.room);
      if (!room) return null;
      return open.name === "add" ? (
        <AddMember room={room} onClose={closeLayer} />
      ) : (
        <RenameRoom room={room} onClose={closeLayer} />
      );
    }
    default:
      return null;
  }
}
