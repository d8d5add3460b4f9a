import { useState } from "preact/hooks";
import type { Room } from "../../state/rooms";
import { useChat } from "../context";
import { FormError } from "../entrance/Entrance";
import { Dialog } from "../parts/Dialog";
import { Field } from "../parts/Field";
import { useForm } from "../parts/useForm";

export function RenameRoom({ room, onClose }: { room: Room; onClose: () => void }) {
  const chat = useChat();
  const [name, setName] = useState(room.name);
  const [topic, setTopic] = useState(room.topic);
  const form = useForm(async () => {
    const changes = {
      ...(name.trim() !== room.name && { name: name.trim() }),
      ...(topic.trim() !== room.topic && { topic: topic.trim() }),
    };
    if (Object.keys(changes).length) await chat.call("room.update", { room: room.id, ...changes });
    onClose();
  }, ["name", "topic"]);
  return (
    <Dialog title="Name and topic" onClose={onClose}>
      <form class="form" onSubmit={form.onSubmit}>
        <Field
          label="Name"
          value={name}
          onValue={setName}
          error={form.errorOf("name")}
          maxLength={chat.limits.value.name_chars}
          autoComplete="off"
          required
          autoFocus
        />
        <Field
          label="Topic"
          value={topic}
          onValue={setTopic}
          error={form.errorOf("topic")}
          maxLength={chat.limits.value.topic_chars}
          autoComplete="off"
        />
        <FormError text={form.error} />
        <div class="dialog-actions">
          <button type="button" class="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" class="button button-primary" aria-disabled={form.isBusy}>
            Save
          </button>
        </div>
      </form>
    </Dialog>
  );
}
