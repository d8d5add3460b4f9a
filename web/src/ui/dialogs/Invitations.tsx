import { useEffect, useState } from "preact/hooks";
import type { Invite } from "../../protocol/messages";
import { useChat } from "../context";
import { Icon } from "../icons";
import { shortTimeOf } from "../when";
import { NewInvitation } from "./NewInvitation";

/** As an administrator: make links for new people, and end them. */
export function Invitations() {
  const chat = useChat();
  const [shown, setShown] = useState<string | null>(null);
  const [all, setAll] = useState<readonly Invite[]>([]);
  const load = () => chat.call("invite.list", {}).then(({ invites }) => setAll(invites));
  useEffect(() => {
    void chat.attempt(load());
  }, []);
  const revoke = async (code: string) => {
    if (!(await chat.attempt(chat.call("invite.revoke", { code }).then(load)))) return;
    if (shown === code) setShown(null);
  };
  return (
    <section aria-labelledby="settings-invite">
      <h3 id="settings-invite">Invite people</h3>
      <NewInvitation
        shown={shown}
        onCreated={(invite) => {
          setShown(invite.code);
          void chat.attempt(load());
        }}
      />
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
