import { useEffect, useState } from "preact/hooks";
import type { BotCreated, User } from "../../protocol/messages";
import { useChat } from "../context";
import { FormError } from "../entrance/Entrance";
import { Avatar } from "../parts/Avatar";
import { Confirm } from "../parts/Confirm";
import { Field } from "../parts/Field";
import { LinkBox } from "../parts/LinkBox";
import { useForm } from "../parts/useForm";

const nameOf = (bot: User) => bot.display_name || bot.username;

/** As an administrator: make bots, give them new tokens, and end them. */
export function Bots() {
  const chat = useChat();
  const [username, setUsername] = useState("");
  const [created, setCreated] = useState<BotCreated | null>(null);
  const [bots, setBots] = useState<readonly User[]>([]);
  const [asked, setAsked] = useState<{ bot: User; verb: "New token" | "Revoke" } | null>(null);
  const load = async () => {
    const found: User[] = [];
    for (let cursor: string | null = ""; cursor !== null; ) {
      const page: { users: User[]; next_cursor: string | null } = await chat.call("user.list", { cursor });
      found.push(...page.users.filter((user) => user.role === "bot" && !user.disabled));
      cursor = page.next_cursor;
    }
    setBots(found);
  };
  useEffect(() => {
    void chat.attempt(load());
  }, []);
  const form = useForm(async () => {
    setCreated(await chat.call("bot.create", { username: username.trim() }));
    setUsername("");
    await load();
  }, ["username"]);
  const act = async (bot: User, isRevoked: boolean) => {
    const user = bot.id;
    if (isRevoked) await chat.call("bot.revoke", { user });
    setCreated(isRevoked ? null : await chat.call("bot.rotate", { user }));
    await load();
  };
  return (
    <section aria-labelledby="settings-bots">
      <h3 id="settings-bots">Bots</h3>
      <form class="form-line" onSubmit={form.onSubmit}>
        <Field
          label="Username of a new bot"
          value={username}
          onValue={setUsername}
          error={form.errorOf("username")}
          autoComplete="off"
          autoCapitalize="none"
          spellcheck={false}
          required
        />
        <button type="submit" class="button" aria-disabled={form.isBusy}>
          Create bot
        </button>
      </form>
      <FormError text={form.error} />
      {created && (
        <>
          <p class="hint" role="status">
            The token of <strong>{nameOf(created.user)}</strong>, its <code>SECURECHAT_TOKEN</code>. It is shown once:
            copy it now. Add the bot to rooms like a person.
          </p>
          <LinkBox label={`Token of ${nameOf(created.user)}`} text={created.token} />
          {created.pin && (
            <>
              <p class="hint">
                The key of this server, its <code>SECURECHAT_PIN</code>: with it the bot talks to no other.
              </p>
              <LinkBox label="Key of this server (SECURECHAT_PIN)" text={created.pin} />
            </>
          )}
        </>
      )}
      {bots.length > 0 && (
        <ul class="plain-list" aria-label="Bots">
          {bots.map((bot) => (
            <li key={bot.id}>
              <Avatar id={bot.id} name={nameOf(bot)} size="small" />
              <span class="choice-names">
                <span class="choice-name">{nameOf(bot)}</span>
                <span class="hint">@{bot.username}</span>
              </span>
              {(["New token", "Revoke"] as const).map((verb) => (
                <button
                  key={verb}
                  type="button"
                  class="button"
                  aria-label={`${verb}: ${nameOf(bot)}`}
                  onClick={() => setAsked({ bot, verb })}
                >
                  {verb}
                </button>
              ))}
            </li>
          ))}
        </ul>
      )}
      {asked && (
        <Confirm
          title={`${asked.verb}: ${nameOf(asked.bot)}`}
          verb={asked.verb}
          onClose={() => setAsked(null)}
          onConfirm={() => {
            setAsked(null);
            void chat.attempt(act(asked.bot, asked.verb === "Revoke"));
          }}
        >
          {asked.verb === "Revoke"
            ? "The bot is signed out at once, for good. Its messages stay."
            : "The old token ends at once: the bot is away until it has the new one."}
        </Confirm>
      )}
    </section>
  );
}
