/** Who people are, whether they are there, and whether they are writing. */

import { type Signal, signal } from "@preact/signals";
import type { Connection } from "../client/connection";
import type { Presence, User } from "../protocol/messages";

const AT_ONCE = 200;
const TYPING_MS = 6_000;
/** Who acts with the command line beside the data folder; no account. */
const OPERATOR = "usr_operator";

/** Whether somebody may bring new people in. The server decides; this only spares the offer. */
export const mayInvite = ({ role }: User) => role === "owner" || role === "admin";

type Gateway = Pick<Connection, "call">;

export class People {
  readonly users: Signal<ReadonlyMap<string, User>> = signal(new Map());
  readonly online: Signal<ReadonlySet<string>> = signal(new Set());
  /** Room → who is writing there. */
  readonly typing: Signal<ReadonlyMap<string, readonly string[]>> = signal(new Map());
  private readonly timers = new Map<string, ReturnType<typeof setTimeout>>();
  private readonly wanted = new Set<string>();
  private readonly asked = new Set<string>();

  constructor(private readonly gateway: Gateway) {}

  /** Return how somebody is called; asks the server about an unknown id. */
  name(id: string): string {
    if (id === OPERATOR) return "The operator";
    const user = this.users.value.get(id);
    if (!user) this.want(id);
    return user ? user.display_name || user.username : "…";
  }

  learn(users: readonly User[]): void {
    const known = this.users.value;
    const news = users.filter((user) => !isSame(known.get(user.id), user));
    if (!news.length) return;
    const next = new Map(known);
    for (const user of news) next.set(user.id, user);
    this.users.value = next;
  }

  present(presence: Record<string, Presence>): void {
    const next = new Set(this.online.value);
    for (const [user, state] of Object.entries(presence)) {
      if (state === "online") next.add(user);
      else next.delete(user);
    }
    this.online.value = next;
  }

  /** A new connection: ask again who is there, and whom the last one could not tell. */
  ready(peers: readonly User[]): void {
    this.asked.clear();
    this.learn(peers);
    for (const peer of peers) this.want(peer.id);
  }

  /** Find people of whose names the words of `query` begin words. */
  async find(query: string, limit = 20): Promise<User[]> {
    const { users, online } = await this.gateway.call("user.find", { query, limit });
    this.learn(users);
    this.present(Object.fromEntries(users.map((user) => [user.id, online.includes(user.id) ? "online" : "offline"])));
    return users;
  }

  startTyping(room: string, user: string): void {
    const key = `${room}/${user}`;
    clearTimeout(this.timers.get(key));
    this.timers.set(
      key,
      setTimeout(() => this.stopTyping(room, user), TYPING_MS),
    );
    const typing = this.typing.value.get(room) ?? [];
    if (!typing.includes(user)) this.typing.value = new Map(this.typing.value).set(room, [...typing, user]);
  }

  stopTyping(room: string, user: string): void {
    const key = `${room}/${user}`;
    clearTimeout(this.timers.get(key));
    if (!this.timers.delete(key)) return;
    const typing = (this.typing.value.get(room) ?? []).filter((one) => one !== user);
    this.typing.value = new Map(this.typing.value).set(room, typing);
  }

  private want(id: string): void {
    if (!id || this.asked.has(id)) return;
    this.asked.add(id);
    this.wanted.add(id);
    if (this.wanted.size === 1) setTimeout(() => void this.ask(), 20);
  }

  private async ask(): Promise<void> {
    const ids = [...this.wanted];
    this.wanted.clear();
    for (let start = 0; start < ids.length; start += AT_ONCE) {
      const users = ids.slice(start, start + AT_ONCE);
      try {
        const answer = await this.gateway.call("user.get", { users });
        this.learn(answer.users);
        this.present(Object.fromEntries(users.map((id) => [id, answer.online.includes(id) ? "online" : "offline"])));
      } catch {
        // The next connection asks again.
        for (const id of users) this.asked.delete(id);
      }
    }
  }
}

function isSame(a: User | undefined, b: User): boolean {
  return (
    a !== undefined &&
    a.username === b.username &&
    a.display_name === b.display_name &&
    a.role === b.role &&
    a.disabled === b.disabled
  );
}
