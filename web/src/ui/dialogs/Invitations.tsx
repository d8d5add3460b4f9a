import { useEffect, useState } from "preact/hooks";
import type { Invite } from "../../protocol/messages";
import { useChat } from "../context";
import { FormError } from "../entrance/Entrance";
import { Icon } from "../icons";
import { Field } from "../parts/Field";
import { LinkBox } from "../parts/LinkBox";
import { useForm } from "../parts/useForm";
import { shortTimeOf } from "../when";

const DAY_S = 86_400;

/** As an administrator: make links for new people, and end them. */
export function Invitations() {
  const chat = useChat();
  const [uses, setUses] = useState("1");
  const [days, setDays] = useState("7");
  const [invite, setInvite] = useState<Invite | null>(null);
  const [all, setAll] = useState<readonly Invite[]>([]);
  const load = () => chat.call("invite.list", {}).then(({ invites }) => setAll(invites));
  useEffect(() => {
    void chat.attempt(load());
  }, []);
  const form = useForm(async () => {
    setInvite(await chat.call("invite.create", { uses: Number(uses), expires_s: Number(days) * DAY_S }));
    await load();
  });
  const revoke = async (code: string) => {
    if (!(await chat.attempt(chat.call("invite.revoke", { code }).then(load)))) return;
    if (invite?.code === code) setInvite(null);
  };
  return (
    <section aria-labelledby="settings-invite">
      <h3 id="settings-invite">Invite people</h3>
      <form class="form-line" onSubmit={form.onSubmit}>
        <Field label="For how many people" type="number" min={1} max={1000} value={uses} onValue={setUses} required />
        <Field label="Days it works" type="number" min={1} max={365} value={days} onValue={setDays} required />
        <button type="submit" class="button" aria-disabled={form.isBusy}>
          Create link
        </button>
      </form>
      <FormError text={form.error} />
      {invite && <LinkBox label="Invitation link" text={invite.url || `${location.origin}/i/${invite.code}`} />}
      {all.length > 0 && (
        <ul class="plain-list" aria-label="Invitations">
          {all.map(({ code, uses_left, expires_at, rooms }) => (
            <li key={code}>
              <Icon name="userPlus" />
              <span class="choice-names">
                <span class="choice-name">{code}</span>
                <span class="hint">
                  {[
                    `For ${uses_left} more`,
                    `until ${shortTimeOf(expires_at)}`,
                    rooms.length && `with ${rooms.length} ${rooms.length === 1 ? "room" : "rooms"}`,
                  ]
                    .filter(Boolean)
                    .join(" · ")}
                </span>
              </span>
              <button type="button" class="button" aria-label={`Revoke ${code}`} onClick={() => void revoke(code)}>
                Revoke
              </button>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}
