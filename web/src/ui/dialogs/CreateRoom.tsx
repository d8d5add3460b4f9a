import { useState } from "preact/hooks";
import { useChat } from "../context";
import { FormError } from "../entrance/Entrance";
import { Dialog } from "../parts/Dialog";
import { Field } from "../parts/Field";
import { useForm } from "../parts/useForm";
import { navigate, roomPath } from "../router";

export function CreateRoom({ onClose }: { onClose: () => void }) {
  const chat = useChat();
  const [name, setName] = useState("");
  const [topic, setTopic] = useState("");
  const [kind, setKind] = useState<"private" | "public">("private");
  const form = useForm(async () => {
    const room = await chat.call("room.create", { name: name.trim().replace(/^#/, ""), topic: topic.trim(), kind });
    chat.opened(room);
    navigate(roomPath(room.id));
    onClose();
  }, ["name", "topic"]);
  const { name_chars, topic_chars } = chat.limits.value;
  return (
    <Dialog title="Create a room" onClose={onClose}>
      <form class="form" onSubmit={form.onSubmit}>
        <Field
          label="Name"
          value={name}
          onValue={setName}
          error={form.errorOf("name")}
          maxLength={name_chars}
          autoComplete="off"
          required
          autoFocus
        />
        <Field
          label="Topic (optional)"
          value={topic}
          onValue={setTopic}
          error={form.errorOf("topic")}
          maxLength={topic_chars}
          autoComplete="off"
        />
        <fieldset class="kinds">
          <legend>Who can find it?</legend>
          <Kind
            value="private"
            chosen={kind}
            onChoose={setKind}
            title="Private"
            text="Only members know of it. Members add others."
          />
          <Kind
            value="public"
            chosen={kind}
            onChoose={setKind}
            title="Public"
            text="Everybody on this server can find and join it."
          />
        </fieldset>
        <FormError text={form.error} />
        <div class="dialog-actions">
          <button type="button" class="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" class="button button-primary" aria-disabled={form.isBusy}>
            {form.isBusy ? "Creating…" : "Create room"}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

interface KindProps {
  value: "private" | "public";
  chosen: string;
  onChoose: (value: "private" | "public") => void;
  title: string;
  text: string;
}

function Kind({ value, chosen, onChoose, title, text }: KindProps) {
  return (
    <label class="kind">
      <input type="radio" name="kind" value={value} checked={chosen === value} onChange={() => onChoose(value)} />
      <span>
        <strong>{title}</strong>
        <span class="hint">{text}</span>
      </span>
    </label>
  );
}
