import { useEffect, useState } from "preact/hooks";
import type { Device, User } from "../../protocol/messages";
import { mayInvite } from "../../state/people";
import { chooseTheme, type Theme, theme } from "../../state/theme";
import { useApp, useChat } from "../context";
import { FormError } from "../entrance/Entrance";
import { Icon } from "../icons";
import { layer } from "../layer";
import { Avatar } from "../parts/Avatar";
import { Dialog } from "../parts/Dialog";
import { Field } from "../parts/Field";
import { useForm } from "../parts/useForm";
import { shortTimeOf } from "../when";
import { AppsAndTokens } from "./AppsAndTokens";
import { Bots } from "./Bots";
import { Invitations } from "./Invitations";
import { Security } from "./Security";

export function Settings({ onClose }: { onClose: () => void }) {
  const chat = useChat();
  const app = useApp();
  const isAdmin = mayInvite(chat.me.value);
  return (
    <Dialog title="Settings" size="large" onClose={onClose}>
      <div class="settings">
        <Profile />
        <Appearance />
        <Security />
        <AppsAndTokens />
        {isAdmin && <Invitations />}
        {isAdmin && <Bots />}
        <Devices />
        <Blocked />
        <section class="settings-foot">
          <button type="button" class="button" onClick={() => (layer.value = { name: "shortcuts" })}>
            <Icon name="keyboard" size={18} /> Keyboard shortcuts
          </button>
          <button
            type="button"
            class="button button-quiet-danger"
            onClick={() => void chat.attempt(app.logout().then(onClose))}
          >
            <Icon name="logout" size={18} /> Log out
          </button>
        </section>
      </div>
    </Dialog>
  );
}

function Profile() {
  const chat = useChat();
  const me = chat.me.value;
  const [name, setName] = useState(me.display_name);
  const form = useForm(async () => {
    const { user } = await chat.call("user.update", { display_name: name.trim() });
    chat.me.value = user;
    chat.people.learn([user]);
    chat.tell("Saved");
  }, ["display_name"]);
  return (
    <section aria-labelledby="settings-profile">
      <h3 id="settings-profile">Profile</h3>
      <form class="form-line" onSubmit={form.onSubmit}>
        <Avatar id={me.id} name={me.display_name || me.username} size="large" />
        <Field
          label="Display name"
          value={name}
          onValue={setName}
          error={form.errorOf("display_name")}
          hint={`@${me.username}`}
          maxLength={chat.limits.value.name_chars}
          autoComplete="name"
          required
        />
        <button type="submit" class="button" aria-disabled={form.isBusy || name.trim() === me.display_name}>
          Save
        </button>
      </form>
      <FormError text={form.error} />
    </section>
  );
}

const THEMES: [Theme, string][] = [
  ["system", "System"],
  ["light", "Light"],
  ["dark", "Dark"],
];

function Appearance() {
  return (
    <section>
      <fieldset class="segments">
        <legend>Theme</legend>
        <div class="segments-row">
          {THEMES.map(([value, label]) => (
            <label key={value}>
              <input type="radio" name="theme" checked={theme.value === value} onChange={() => chooseTheme(value)} />
              <span>{label}</span>
            </label>
          ))}
        </div>
      </fieldset>
    </section>
  );
}

function Devices() {
  const chat = useChat();
  const [devices, setDevices] = useState<readonly Device[] | null>(null);
  const load = () => chat.call("device.list", {}).then((answer) => setDevices(answer.devices));
  useEffect(() => {
    void chat.attempt(load());
  }, []);
  return (
    <section aria-labelledby="settings-devices">
      <h3 id="settings-devices">Devices</h3>
      {!devices && <div class="skeleton skeleton-line" />}
      <ul class="plain-list" aria-label="Devices">
        {devices?.map((device) => {
          const isThis = device.current || device.id === chat.device;
          return (
            <li key={device.id}>
              <Icon name="device" />
              <span class="choice-names">
                <span class="choice-name">
                  {device.name || "Unnamed device"}
                  {isThis && <span class="hint"> (this one)</span>}
                </span>
                <span class="hint">
                  {[`Last seen ${shortTimeOf(device.last_seen_at)}`, device.address].filter(Boolean).join(" · ")}
                </span>
              </span>
              {!isThis && (
                <button
                  type="button"
                  class="button"
                  aria-label={`Sign out ${device.name}`}
                  onClick={() => void chat.attempt(chat.call("device.revoke", { device: device.id }).then(load))}
                >
                  Sign out
                </button>
              )}
            </li>
          );
        })}
      </ul>
    </section>
  );
}

function Blocked() {
  const chat = useChat();
  const [users, setUsers] = useState<readonly User[]>([]);
  const blocked = chat.blocked.value;
  useEffect(() => {
    if (!blocked.size) setUsers([]);
    else
      chat.call("user.blocks", {}).then(
        (answer) => setUsers(answer.users),
        () => {},
      );
  }, [blocked]);
  return (
    <section aria-labelledby="settings-blocked">
      <h3 id="settings-blocked">Blocked people</h3>
      {!users.length && <p class="hint">You have not blocked anybody.</p>}
      <ul class="plain-list" aria-label="Blocked people">
        {users.map((user) => (
          <li key={user.id}>
            <Avatar id={user.id} name={user.display_name || user.username} size="small" />
            <span class="choice-names">
              <span class="choice-name">{user.display_name || user.username}</span>
            </span>
            <button
              type="button"
              class="button"
              aria-label={`Unblock ${user.display_name || user.username}`}
              onClick={() => void chat.attempt(chat.block(user.id, false))}
            >
              Unblock
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
