/** Frames and their parts, as in `spec/protocol.md`. Fields that the server leaves out at their default are optional. */

export type ServerRole = "owner" | "admin" | "member" | "bot" | "operator";
export type RoomKind = "public" | "private" | "direct";
export type RoomRole = "owner" | "member";
export type Presence = "online" | "offline";

export interface User {
  id: string;
  username: string;
  display_name: string;
  role?: ServerRole;
  disabled?: boolean;
}

export interface RoomSummary {
  id: string;
  kind: RoomKind;
  name?: string;
  topic?: string;
  last_seq?: number;
  members?: number;
  role?: RoomRole;
  read_seq?: number;
  unread?: number;
  peer?: User;
  resumed?: boolean;
}

export type EntryType =
  | "message.sent"
  | "message.edited"
  | "message.deleted"
  | "reaction.added"
  | "reaction.removed"
  | "room.created"
  | "room.updated"
  | "room.erased"
  | "member.joined"
  | "member.left"
  | "member.removed";

/** One fact in the log of a room. */
export interface Entry {
  type: EntryType;
  room: string;
  seq: number;
  at: number;
  user: string;
  device?: string;
  cmid?: string;
  body?: string;
  reply_to?: number;
  target?: number;
  emoji?: string;
  member?: string;
  role?: RoomRole;
  kind?: RoomKind;
  name?: string;
  topic?: string;
  /** A host that the entries of the room are sent to from here on, or not any more. */
  subscribed?: string;
  unsubscribed?: string;
  edited?: { seq: number; at: number; body: string };
  deleted?: number;
  reactions?: Record<string, string[]>;
}

export interface Limits {
  body_bytes: number;
  name_chars: number;
  topic_chars: number;
  page_entries: number;
}

export interface HelloFrame {
  op: "hello";
  protocol: number;
  server: string;
  version: string;
  time: number;
  heartbeat_s: number;
  limits: Limits;
  /** Inside a sealed session: the id of the root that signs the list of the server's keys, if it has one. */
  root?: string;
}

export interface ReadyFrame {
  op: "ready";
  id?: string;
  user: User;
  device: string;
  rooms: RoomSummary[];
  resumed: boolean;
  /** False: a database does not answer, and rooms that are not told may be there. */
  complete?: boolean;
  blocked?: string[];
  expires_in?: number;
}

export type EventFrame = Entry & { op: "event" };

export interface SignalFrame {
  op: "signal";
  type: string;
  room?: string;
  user?: string;
  presence?: Record<string, Presence>;
  read_seq?: number;
  unread?: number;
  summary?: RoomSummary;
  person?: User;
  expires_in?: number;
}

export interface ReplyFrame {
  op: "reply";
  id: string;
  data: unknown;
}

/** Why something was refused: the fields of RFC 9457, in a frame and in REST alike. */
export interface Problem {
  code: string;
  title: string;
  status: number;
  detail: string;
  retryable?: boolean;
  field?: string;
  retry_after_ms?: number;
}

export type ErrorFrame = Problem & { op: "error"; id?: string };

export interface PongFrame {
  op: "pong";
  id: string;
  time: number;
}

export interface DrainFrame {
  op: "drain";
  /** The connection is closed within so long. */
  within_ms?: number;
  after_ms: number;
}

export type ServerFrame =
  | HelloFrame
  | ReadyFrame
  | EventFrame
  | SignalFrame
  | ReplyFrame
  | ErrorFrame
  | PongFrame
  | DrainFrame;

export interface Sent {
  room: string;
  seq: number;
  at: number;
}

export interface Page {
  room: string;
  entries: Entry[];
  last_seq: number;
}

export interface ReadState {
  room: string;
  read_seq: number;
  unread: number;
}

export interface Member {
  user: User;
  role: RoomRole;
  presence: Presence;
}

export interface BotOption {
  name: string;
  type: "str" | "int" | "float" | "bool";
  required: boolean;
  default: string;
}

export interface BotCommand {
  name: string;
  description: string;
  options: BotOption[];
  bot: string;
}

export interface Device {
  id: string;
  name: string;
  created_at: number;
  last_seen_at: number;
  address?: string;
  current?: boolean;
}

export interface Invite {
  code: string;
  uses_left: number;
  expires_at: number;
  rooms: string[];
  url: string;
}

/** A bot and its token, which nobody can show again. */
export interface BotCreated {
  /** Ids of the server's keys, for SECURECHAT_PIN. */
  pin?: string;
  user: User;
  token: string;
}

export interface Invitation {
  server_name: string;
  invited_by: string;
  rooms: string[];
}

export interface SessionReply {
  user: User;
  device: string;
  access_token: string;
  expires_in: number;
  refresh_token: string;
  /** The role wants a second factor and the account has none: nothing else is taken before. */
  enrol?: boolean;
}

export interface Passkey {
  id: string;
  name: string;
  created_at: number;
  /** 0 until it was used. */
  last_used_at: number;
}

export interface Factors {
  totp: boolean;
  passkeys: Passkey[];
  recovery_codes: number;
  required: boolean;
  confirmed: boolean;
  /** Who came in by a provider has no password until they set one. */
  password: boolean;
}

export interface TotpSecret {
  ticket: string;
  secret: string;
  uri: string;
  /** One text of 0 and 1 per row. */
  qr: string[];
}

/** `options` are WebAuthn's, in their JSON form. */
export interface PasskeyOptions<T> {
  ticket: string;
  options: T;
}

export interface RecoveryCodes {
  recovery_codes: string[];
}

/** A provider whose accounts open this server. */
export interface SignInProvider {
  id: string;
  name: string;
}

/** Where the browser goes, and what it brings along when it is back. */
export interface ProviderStart {
  url: string;
  state: string;
  ticket: string;
}

/** Who came back from a provider. */
export interface ProviderOutcome {
  ticket: string;
  /** An account here is linked. */
  known: boolean;
  /** Registering needs an invitation. */
  invited: boolean;
  username: string;
  display_name: string;
}

export interface ExternalAccount {
  id: string;
  provider: string;
  name: string;
  created_at: number;
  last_used_at: number;
}

/** What an app asks for. */
export interface Consent {
  app: string;
  name: string;
  scopes: { name: string; words: string }[];
  /** Where one goes afterwards; empty for a device. */
  redirect_host: string;
}

export interface Grant {
  app: string;
  name: string;
  scopes: string[];
  created_at: number;
  last_seen_at: number;
  sessions: number;
}

export interface PersonalToken {
  id: string;
  name: string;
  scopes: string[];
  created_at: number;
  expires_at: number;
}

export interface Rooms {
  rooms: RoomSummary[];
  next_cursor: string | null;
}

export interface Members {
  members: Member[];
  next_cursor: string | null;
}

export interface Users {
  users: User[];
  online: string[];
}

type Done = Record<string, never>;
type OnMessage = { room: string; seq: number };

/** Every command that this client sends over the gateway: its fields and its reply. */
export interface Commands {
  "message.send": { args: { room: string; cmid: string; body: string; reply_to?: number }; reply: Sent };
  "message.edit": { args: OnMessage & { body: string; cmid?: string }; reply: Sent };
  "message.delete": { args: OnMessage & { cmid?: string }; reply: Sent };
  "reaction.add": { args: OnMessage & { emoji: string; cmid?: string }; reply: Sent };
  "reaction.remove": { args: OnMessage & { emoji: string; cmid?: string }; reply: Sent };
  fetch: { args: { room: string; before?: number; after?: number; around?: number; limit?: number }; reply: Page };
  "read.mark": { args: { room: string; seq: number; back?: boolean }; reply: ReadState };
  "typing.start": { args: { room: string }; reply: Done };
  "room.create": { args: { name: string; kind?: RoomKind; topic?: string; members?: string[] }; reply: RoomSummary };
  "room.direct": { args: { user: string }; reply: RoomSummary };
  "room.update": { args: { room: string; name?: string; topic?: string }; reply: RoomSummary };
  "room.browse": { args: { query?: string; cursor?: string; limit?: number }; reply: Rooms };
  "room.get": { args: { room: string }; reply: RoomSummary };
  "room.join": { args: { room: string }; reply: RoomSummary };
  "room.leave": { args: { room: string }; reply: Done };
  "member.list": { args: { room: string; cursor?: string; limit?: number }; reply: Members };
  "member.add": { args: { room: string; user: string }; reply: Done };
  "member.remove": { args: { room: string; user: string }; reply: Done };
  "user.get": { args: { users: string[] }; reply: Users };
  "user.find": { args: { query?: string; limit?: number }; reply: Users };
  "user.block": { args: { user: string }; reply: Done };
  "user.unblock": { args: { user: string }; reply: Done };
  "user.blocks": { args: Done; reply: Users };
  "user.update": { args: { display_name: string }; reply: { user: User; device: string } };
  "command.list": { args: { room: string }; reply: { commands: BotCommand[] } };
  "device.list": { args: Done; reply: { devices: Device[] } };
  "device.revoke": { args: { device: string }; reply: Done };
  "invite.create": { args: { uses?: number; expires_s?: number; rooms?: string[] }; reply: Invite };
  "invite.list": { args: Done; reply: { invites: Invite[] } };
  "invite.revoke": { args: { code: string }; reply: Done };
  "user.list": { args: { cursor?: string }; reply: { users: User[]; next_cursor: string | null } };
  "bot.create": { args: { username: string }; reply: BotCreated };
  "bot.revoke": { args: { user: string }; reply: Done };
  "bot.rotate": { args: { user: string }; reply: BotCreated };
  resume: { args: { rooms: Record<string, number> }; reply: { rooms: Record<string, boolean> } };
  auth: { args: { token: string; resume?: Record<string, number> }; reply: Done };
}

export type CommandName = keyof Commands;

export interface ClientFrame {
  op: string;
  id?: string;
  [field: string]: unknown;
}

/** The sub-protocol in which the session layer seals every message, inside of TLS; see spec/session-layer.md. */
export const SUBPROTOCOL_SEALED = "securechat.v1";
/** The sub-protocol whose frames travel as they are; TLS protects them. */
export const SUBPROTOCOL_CLEAR = "securechat.v1.clear";

/** What holds until `hello` says otherwise. */
export const DEFAULT_LIMITS: Limits = { body_bytes: 16_384, name_chars: 64, topic_chars: 256, page_entries: 200 };
