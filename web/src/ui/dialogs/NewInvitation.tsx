import { useState } from "preact/hooks";
import type { Invite } from "../../protocol/messages";
import { titleOf } from "../../state/rooms";
import { useChat } from "../context";
import { FormError } from "../entrance/Entrance";
import { Field } from "../parts/Field";
import { LinkBox } from "../parts/LinkBox";
import { useForm } from "../parts/useForm";

const DAY_S = 86_400;

interface Props {
  /** Rooms that are chosen at the beginning. */
  rooms?: readonly string[];
  onCreated?: (invite: Invite) => void;
  /** Code of the invitation whose link is shown; the newest one where nobody else ends them. */
  shown?: string | null;
}

/** Make a link for new people: for how many, for how long, into which rooms. */
export function NewInvitation({ rooms = [], onCreated, shown }: Props) {
  const chat = useChat();
  const [uses, setUses] = useState("1");
  const [days, setDays] = useState("7");
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set(rooms));
  const [invite, setInvite] = useState<Invite | null>(null);
  const all = [...chat.rooms.value.values()]
    .filter((room) => room.kind !== "direct")
    .sort((a, b) => titleOf(a).localeCompare(titleOf(b)));
  const form = useForm(async () => {
    const into = all.filter((room) => chosen.has(room.id)).map((room) => room.id);
    const created = await chat.call("invite.create", {
      uses: Number(uses),
      expires_s: Number(days) * DAY_S,
      rooms: into,
    });
    setInvite(created);
    onCreated?.(created);
  });
  const choose = (id: string, isIn: boolean) => {
    const next = new Set(chosen);
    if (isIn) next.add(id);
    else next.delete(id);
    setChosen(next);
  };
  return (
    <>
      <form class="form" onSubmit={form.onSubmit}>
        <div class="form-line">
          <Field label="For how many people" type="number" min={1} max={1000} value={uses} onValue={setUses} required />
          <Field label="Days it works" type="number" min={1} max={365} value={days} onValue={setDays} required />
        </div>
        {all.length > 0 && (
          <fieldset class="rooms-choice">
            <legend>Rooms they come into</legend>
            <div class="rooms-choice-list">
              {all.map((room) => (
                <label key={room.id} class="chip chip-choice">
                  <input
                    type="checkbox"
                    checked={chosen.has(room.id)}
                    onChange={(event) => choose(room.id, event.currentTarget.checked)}
                  />
                  <span>
                    <span aria-hidden="true"># </span>
                    {titleOf(room)}
                  </span>
                </label>
              ))}
            </div>
          </fieldset>
        )}
        <FormError text={form.error} />
        <button type="submit" class="button button-primary" aria-disabled={form.isBusy}>
          {form.isBusy ? "Creating…" : "Create link"}
        </button>
      </form>
      {invite && (shown === undefined || shown === invite.code) && (
        <>
          <LinkBox label="Invitation link" text={invite.url || `${location.origin}/i/${invite.code}`} />
          <p class="hint">Whoever has the link can use it: give it to nobody but those whom you mean.</p>
        </>
      )}
    </>
  );
}
