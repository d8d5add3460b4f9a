/** A server in memory that speaks the protocol: what the tests connect to instead of a network. */

import type { SocketLike } from "../src/client/channel";
import type { BotCommand, ClientFrame, Entry, EntryType, RoomKind, RoomSummary, User } from "../src/protocol/messages";

export interface FakeRoom {
  id: string;
  kind: RoomKind;
  name: string;
  topic: string;
  members: Set<string>;
  log: Entry[];
  read: Map<string, number>;
}

interface Sink {
  user: string;
  device: string;
  push(frames: object[]): void;
  close(code: number): void;
}

class Problem extends Error {
  constructor(
    readonly code: string,
    readonly status: number,
    detail: string,
    readonly retryable = false,
  ) {
    super(detail);
  }
}

// biome-ignore lint/suspicious/noExplicitAny: the fake trusts what the client under test sends.
type Args = Record<string, any>;

export class FakeServer {
  readonly users = new Map<string, User>();
  readonly rooms = new Map<string, FakeRoom>();
  /** Ids of rooms whose database does not answer. */
  readonly silent = new Set<string>();
  readonly blocks = new Map<string, Set<string>>();
  readonly sinks = new Set<Sink>();
  readonly received: ClientFrame[] = [];
  readonly commands: BotCommand[] = [];
  resumeEntries = 1_000;
  membersPage = 1_000;
  /** Answers that a test wants instead of the true ones: return a problem or null. */
  refuse: (frame: ClientFrame) => { code: string; status: number; detail: string; retryable?: boolean } | null = () =>
    null;
  /** Whether new connections are taken. */
  isUp = true;
  /** Whether events are lost on the way: for making gaps. */
  loseEvents = false;
  private lastRoom = 0;

  user(id: string, displayName: string, role: User["role"] = "member"): User {
    const user: User = { id, username: id.replace(/^usr_/, ""), display_name: displayName, role };
    this.users.set(id, user);
    return user;
  }

  room(name: string, members: string[], kind: RoomKind = "private"): FakeRoom {
    this.lastRoom += 1;
    const id = `rm_${String(this.lastRoom).padStart(4, "0")}`;
    const room: FakeRoom = { id, kind, name, topic: "", members: new Set(members), log: [], read: new Map() };
    this.rooms.set(id, room);
    const owner = members[0] ?? "";
    this.append(room, "room.created", owner, { kind, name, topic: "" });
    members.forEach((member, index) => {
      this.append(room, "member.joined", owner, { member, role: index ? "member" : "owner" });
    });
    return room;
  }

  append(room: FakeRoom, type: EntryType, user: string, fields: Partial<Entry> = {}, at = Date.now()): Entry {
    const entry: Entry = { type, room: room.id, seq: room.log.length + 1, at, user, ...fields };
    room.log.push(entry);
    if (!this.loseEvents) {
      for (const sink of this.sinks) {
        if (room.members.has(sink.user)) sink.push([{ op: "event", ...entry }]);
      }
    }
    return entry;
  }

  signal(to: string, frame: object): void {
    for (const sink of this.sinks) if (sink.user === to) sink.push([{ op: "signal", ...frame }]);
  }

  /** Return an entry as it is read from the store: with what became of it. */
  stored(room: FakeRoom, entry: Entry): Entry {
    if (entry.type !== "message.sent") return entry;
    const after = { ...entry };
    const reactions: Record<string, string[]> = {};
    for (const change of room.log) {
      if (change.target !== entry.seq) continue;
      const emoji = change.emoji ?? "";
      if (change.type === "message.edited") after.edited = { seq: change.seq, at: change.at, body: change.body ?? "" };
      if (change.type === "message.deleted") after.deleted = change.seq;
      if (change.type === "reaction.added") reactions[emoji] = [...new Set([...(reactions[emoji] ?? []), change.user])];
      if (change.type === "reaction.removed") {
        const left = (reactions[emoji] ?? []).filter((user) => user !== change.user);
        if (left.length) reactions[emoji] = left;
        else delete reactions[emoji];
      }
    }
    if (Object.keys(reactions).length) after.reactions = reactions;
    if (after.deleted) {
      delete after.body;
      delete after.edited;
      delete after.reactions;
    }
    return after;
  }

  summary(room: FakeRoom, user: string): RoomSummary {
    const read = room.read.get(user) ?? 0;
    const unread = room.log.filter((e) => e.type === "message.sent" && e.user !== user && e.seq > read).length;
    const peer = room.kind === "direct" ? [...room.members].find((id) => id !== user) : undefined;
    const summary: RoomSummary = { id: room.id, kind: room.kind };
    if (room.name) summary.name = room.name;
    if (room.topic) summary.topic = room.topic;
    summary.last_seq = room.log.length;
    summary.members = room.members.size;
    if (room.members.has(user)) summary.role = room.log[0]?.user === user ? "owner" : "member";
    if (read) summary.read_seq = read;
    if (unread) summary.unread = unread;
    if (peer) summary.peer = this.users.get(peer) as User;
    return summary;
  }

  /** Take a connection; return what handles its messages. */
  connect(
    push: (text: string) => void,
    close: (code: number) => void,
  ): { message(text: string): void; closed(): void } {
    const sink: Sink = { user: "", device: "", push: (frames) => push(JSON.stringify(frames)), close };
    const limits = { body_bytes: 16_384, name_chars: 64, topic_chars: 256, page_entries: 200 };
    const hello = { op: "hello", protocol: 1, server: "Acme", version: "0", time: Date.now(), heartbeat_s: 20, limits };
    sink.push([hello]);
    return {
      message: (text) => {
        for (const frame of JSON.parse(text) as ClientFrame[]) {
          this.received.push(frame);
          this.frame(sink, frame);
        }
      },
      closed: () => {
        this.sinks.delete(sink);
        if (![...this.sinks].some((other) => other.user === sink.user)) this.presence(sink.user, "offline");
      },
    };
  }

  dropAll(code = 1006): void {
    for (const sink of [...this.sinks]) {
      this.sinks.delete(sink);
      sink.close(code);
    }
  }

  private presence(user: string, state: string): void {
    for (const sink of this.sinks) {
      if (sink.user !== user) sink.push([{ op: "signal", type: "presence.changed", presence: { [user]: state } }]);
    }
  }

  private frame(sink: Sink, frame: ClientFrame): void {
    const { op, id = "" } = frame;
    if (op === "ping") {
      sink.push([{ op: "pong", id, time: Date.now() }]);
      return;
    }
    try {
      const problem = this.refuse(frame);
      if (problem) throw new Problem(problem.code, problem.status, problem.detail, problem.retryable);
      if (op === "auth" && !sink.user) {
        this.authenticate(sink, frame);
        return;
      }
      const data = this.command(sink, op, frame as Args);
      sink.push([{ op: "reply", id, data }]);
      if (op === "resume") this.replay(sink, frame.rooms as Record<string, number>);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      const { code, status, message, retryable } = error;
      sink.push([{ op: "error", id, code, title: code, status, detail: message, retryable }]);
    }
  }

  private authenticate(sink: Sink, frame: ClientFrame): void {
    const [user = "", device = ""] = String(frame.token).split("/");
    const me = this.users.get(user);
    if (!me) {
      sink.close(4401);
      return;
    }
    sink.user = user;
    sink.device = device;
    const held = (frame.resume ?? {}) as Record<string, number>;
    const mine = [...this.rooms.values()].filter((room) => room.members.has(user));
    const rooms = mine
      .filter((room) => !this.silent.has(room.id))
      .map((room) => {
        const summary = this.summary(room, user);
        if (room.id in held) summary.resumed = room.log.length - (held[room.id] as number) <= this.resumeEntries;
        return summary;
      });
    const resumed = rooms.every((room) => room.resumed !== false);
    const blocked = [...(this.blocks.get(user) ?? [])];
    sink.push([
      {
        op: "ready",
        id: frame.id,
        user: me,
        device,
        rooms,
        resumed,
        complete: rooms.length === mine.length,
        blocked,
        expires_in: 600,
      },
    ]);
    this.replay(sink, held);
    this.sinks.add(sink);
    this.presence(user, "online");
  }

  private replay(sink: Sink, held: Record<string, number>): void {
    for (const [id, seq] of Object.entries(held)) {
      const room = this.rooms.get(id);
      if (!room?.members.has(sink.user)) continue;
      const from = room.log.length - seq > this.resumeEntries ? Math.max(0, room.log.length - 50) : seq;
      const events = room.log.slice(from).map((entry) => ({ op: "event", ...this.stored(room, entry) }));
      if (events.length) sink.push(events);
    }
  }

  private roomOf(sink: Sink, args: Args): FakeRoom {
    const room = this.rooms.get(String(args.room));
    if (!room?.members.has(sink.user)) throw new Problem("not_found", 404, "No room that you can see.");
    return room;
  }

  private command(sink: Sink, op: string, args: Args): unknown {
    const me = sink.user;
    const sent = (entry: Entry) => ({ room: entry.room, seq: entry.seq, at: entry.at });
    if (args.cmid) {
      const known = this.roomOf(sink, args).log.find(
        ({ cmid, device }) => cmid === args.cmid && device === sink.device,
      );
      if (known) return sent(known);
    }
    const own = { device: sink.device, cmid: args.cmid };
    const change = (type: EntryType, fields: Partial<Entry> = {}) =>
      sent(this.append(this.roomOf(sink, args), type, me, { ...own, target: args.seq, ...fields }));
    switch (op) {
      case "auth":
        return {};
      case "message.send": {
        const { body, reply_to } = args as { body: string; reply_to?: number };
        const fields = { ...own, body, ...(reply_to && { reply_to }) };
        return sent(this.append(this.roomOf(sink, args), "message.sent", me, fields));
      }
      case "message.edit":
        return change("message.edited", { body: args.body });
      case "message.delete":
        return change("message.deleted");
      case "reaction.add":
        return change("reaction.added", { emoji: args.emoji });
      case "reaction.remove":
        return change("reaction.removed", { emoji: args.emoji });
      case "fetch":
        return this.page(this.roomOf(sink, args), args);
      case "read.mark": {
        const room = this.roomOf(sink, args);
        room.read.set(me, Math.max(room.read.get(me) ?? 0, Number(args.seq)));
        const { read_seq = 0, unread = 0 } = this.summary(room, me);
        this.signal(me, { type: "read.updated", room: room.id, read_seq, unread });
        return { room: room.id, read_seq, unread };
      }
      case "typing.start":
        for (const member of this.roomOf(sink, args).members) {
          if (member !== me) this.signal(member, { type: "typing.started", room: args.room, user: me });
        }
        return {};
      case "resume": {
        const rooms = Object.entries(args.rooms as Record<string, number>);
        return {
          rooms: Object.fromEntries(
            rooms.map(([id, seq]) => [id, (this.rooms.get(id)?.log.length ?? 0) - seq <= this.resumeEntries]),
          ),
        };
      }
      default:
        return this.other(sink, op, args);
    }
  }

  private page(room: FakeRoom, args: Args): unknown {
    const {
      before,
      after,
      around,
      limit = 50,
    } = args as { before?: number; after?: number; around?: number; limit?: number };
    let start = room.log.length - limit;
    let end = room.log.length;
    if (before !== undefined) [start, end] = [before - 1 - limit, before - 1];
    if (after !== undefined) [start, end] = [after, after + limit];
    if (around !== undefined) [start, end] = [around - Math.ceil(limit / 2), around + Math.floor(limit / 2)];
    const entries = room.log.slice(Math.max(0, start), Math.max(0, end)).map((entry) => this.stored(room, entry));
    return { room: room.id, entries, last_seq: room.log.length };
  }

  private other(sink: Sink, op: string, args: Args): unknown {
    const me = sink.user;
    const online = [...new Set([...this.sinks].map((one) => one.user))];
    switch (op) {
      case "user.get": {
        const users = (args.users as string[]).map((id) => this.users.get(id)).filter(Boolean);
        return { users, online };
      }
      case "user.find": {
        const query = String(args.query ?? "").toLowerCase();
        const users = [...this.users.values()].filter((user) =>
          [user.username, user.display_name].some((name) => name.toLowerCase().startsWith(query)),
        );
        return { users, online };
      }
      case "user.blocks":
        return { users: [...(this.blocks.get(me) ?? [])].map((id) => this.users.get(id)), online };
      case "user.block":
      case "user.unblock": {
        const blocked = new Set(this.blocks.get(me));
        if (op === "user.block") blocked.add(String(args.user));
        else blocked.delete(String(args.user));
        this.blocks.set(me, blocked);
        return {};
      }
      case "user.update": {
        const user = { ...(this.users.get(me) as User), display_name: String(args.display_name) };
        this.users.set(me, user);
        for (const id of this.users.keys()) this.signal(id, { type: "user.updated", user: me, person: user });
        return { user, device: sink.device };
      }
      case "member.list": {
        const room = this.roomOf(sink, args);
        const members = [...room.members].map((id) => ({
          user: this.users.get(id),
          role: room.log[0]?.user === id ? "owner" : "member",
          presence: online.includes(id) ? "online" : "offline",
        }));
        const start = args.cursor ? members.findIndex((each) => each.user?.id === args.cursor) + 1 : 0;
        const page = members.slice(start, start + this.membersPage);
        return { members: page, next_cursor: start + page.length < members.length ? page.at(-1)?.user?.id : null };
      }
      case "command.list":
        return { commands: this.commands };
      case "device.list":
        return {
          devices: [
            { id: sink.device, name: "Chrome on Linux", created_at: 0, last_seen_at: Date.now(), current: true },
          ],
        };
      case "invite.create":
        return { code: "ABCD-EFGH-JKMN", uses_left: args.uses ?? 1, expires_at: Date.now(), rooms: [], url: "" };
      default:
        return this.roomCommand(sink, op, args);
    }
  }

  private roomCommand(sink: Sink, op: string, args: Args): unknown {
    const me = sink.user;
    const enter = (room: FakeRoom, member: string, by: string) => {
      room.members.add(member);
      this.signal(member, { type: "room.opened", summary: this.summary(room, member) });
      this.append(room, "member.joined", by, { member, role: "member" });
    };
    const leave = (room: FakeRoom, member: string, type: EntryType) => {
      this.append(room, type, me, { member });
      room.members.delete(member);
      this.signal(member, { type: "room.closed", room: room.id });
    };
    switch (op) {
      case "room.browse": {
        const rooms = [...this.rooms.values()].filter((room) => room.kind === "public");
        return { rooms: rooms.map((room) => this.summary(room, me)), next_cursor: null };
      }
      case "room.create": {
        const room = this.room(String(args.name), [me], args.kind as RoomKind);
        room.topic = String(args.topic ?? "");
        this.signal(me, { type: "room.opened", summary: this.summary(room, me) });
        return this.summary(room, me);
      }
      case "room.direct": {
        const other = String(args.user);
        const known = [...this.rooms.values()].find(
          (room) => room.kind === "direct" && room.members.has(me) && room.members.has(other),
        );
        const room = known ?? this.room("", [me, other], "direct");
        if (!known) {
          for (const id of room.members) this.signal(id, { type: "room.opened", summary: this.summary(room, id) });
        }
        return this.summary(room, me);
      }
      case "room.get":
      case "room.join": {
        const room = this.rooms.get(String(args.room));
        if (!room || (room.kind !== "public" && !room.members.has(me))) throw new Problem("not_found", 404, "No room.");
        if (op === "room.join" && !room.members.has(me)) enter(room, me, me);
        return this.summary(room, me);
      }
      case "room.update": {
        const room = this.roomOf(sink, args);
        room.name = String(args.name ?? room.name);
        room.topic = String(args.topic ?? room.topic);
        const { name, topic } = args as { name?: string; topic?: string };
        this.append(room, "room.updated", me, {
          ...(name !== undefined && { name }),
          ...(topic !== undefined && { topic }),
        });
        return this.summary(room, me);
      }
      case "room.leave":
        leave(this.roomOf(sink, args), me, "member.left");
        return {};
      case "member.add":
        enter(this.roomOf(sink, args), String(args.user), me);
        return {};
      case "member.remove":
        leave(this.roomOf(sink, args), String(args.user), "member.removed");
        return {};
      default:
        throw new Problem("invalid_input", 400, `Unknown: ${op}`);
    }
  }
}

/** A socket to the fake server, whose messages arrive as tasks of their own, like those of a network. */
export class FakeSocket implements SocketLike {
  readyState = 0;
  binaryType = "blob";
  readonly protocol = "securechat.v1.clear";
  onopen: SocketLike["onopen"] = null;
  onmessage: SocketLike["onmessage"] = null;
  onclose: SocketLike["onclose"] = null;
  onerror: SocketLike["onerror"] = null;
  private link: ReturnType<FakeServer["connect"]> | null = null;

  constructor(server: FakeServer) {
    setTimeout(() => {
      if (!server.isUp) {
        this.end(1006);
        return;
      }
      this.readyState = 1;
      this.onopen?.({} as never);
      this.link = server.connect(
        (text) => setTimeout(() => this.readyState === 1 && this.onmessage?.({ data: text }), 1),
        (code) => setTimeout(() => this.end(code), 1),
      );
    }, 1);
  }

  send(data: string | Uint8Array): void {
    setTimeout(() => this.link?.message(String(data)), 1);
  }

  close(): void {
    this.end(1000);
  }

  private end(code: number): void {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.link?.closed();
    this.onclose?.({ code });
  }
}
