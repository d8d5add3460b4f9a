/** One's own rooms: unread counts, names, members, as a pure fold. */

import type { Entry, RoomSummary } from "../protocol/messages";

export interface Room {
  id: string;
  kind: RoomSummary["kind"];
  name: string;
  topic: string;
  members: number;
  role: RoomSummary["role"];
  lastSeq: number;
  readSeq: number;
  unread: number;
  peer: RoomSummary["peer"];
}

export type Rooms = ReadonlyMap<string, Room>;

const UNREAD_STOPS_AT = 1_000;

export function roomOf(summary: RoomSummary): Room {
  return {
    id: summary.id,
    kind: summary.kind,
    name: summary.name ?? "",
    topic: summary.topic ?? "",
    members: summary.members ?? 0,
    role: summary.role,
    lastSeq: summary.last_seq ?? 0,
    readSeq: summary.read_seq ?? 0,
    unread: summary.unread ?? 0,
    peer: summary.peer,
  };
}

export function roomsOf(summaries: readonly RoomSummary[]): Rooms {
  return new Map(summaries.map((summary) => [summary.id, roomOf(summary)]));
}

export function withRoom(rooms: Rooms, room: Room): Rooms {
  return new Map(rooms).set(room.id, room);
}

export function withoutRoom(rooms: Rooms, id: string): Rooms {
  const next = new Map(rooms);
  next.delete(id);
  return next;
}

/** Take the server's word on how far this user has read: absolute, never a difference. */
export function withRead(rooms: Rooms, id: string, readSeq: number, unread: number): Rooms {
  const room = rooms.get(id);
  if (!room || (room.readSeq === readSeq && room.unread === unread)) return rooms;
  return withRoom(rooms, { ...room, readSeq, unread });
}

/** Take a new entry of a room in. */
export function withEntry(rooms: Rooms, entry: Entry, me: string): Rooms {
  const room = rooms.get(entry.room);
  if (!room || entry.seq <= room.lastSeq) return rooms;
  const next = { ...room, lastSeq: entry.seq };
  switch (entry.type) {
    case "message.sent":
      if (entry.user !== me && entry.seq > room.readSeq) next.unread = Math.min(room.unread + 1, UNREAD_STOPS_AT);
      break;
    case "room.created":
    case "room.updated":
      next.name = entry.name ?? room.name;
      next.topic = entry.topic ?? room.topic;
      break;
    case "member.joined":
      next.members += 1;
      if (entry.member === me) next.role = entry.role ?? "member";
      break;
    case "member.left":
    case "member.removed":
      next.members = Math.max(0, next.members - 1);
      break;
    default:
  }
  return withRoom(rooms, next);
}

/** Return what a room is called. */
export function titleOf(room: Room): string {
  if (room.kind !== "direct") return room.name || "Unnamed room";
  return room.peer?.display_name || room.peer?.username || "Direct message";
}

const byTitle = new Intl.Collator(undefined, { sensitivity: "base", numeric: true });

export interface Sections {
  unread: Room[];
  rooms: Room[];
  people: Room[];
}

/** Return the rooms as the list shows them. The room that one looks at stays where it was. */
export function sectionsOf(rooms: Rooms, active: string | null, activeWasUnread: boolean): Sections {
  const sections: Sections = { unread: [], rooms: [], people: [] };
  for (const room of rooms.values()) {
    const unread = room.id === active ? activeWasUnread : room.unread > 0;
    if (unread) sections.unread.push(room);
    else if (room.kind === "direct") sections.people.push(room);
    else sections.rooms.push(room);
  }
  for (const list of Object.values(sections) as Room[][]) {
    list.sort((a, b) => byTitle.compare(titleOf(a), titleOf(b)) || (a.id < b.id ? -1 : 1));
  }
  return sections;
}
