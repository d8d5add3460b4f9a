import { beforeEach, describe, expect, it, vi } from "vitest";
import { Refused, SignedOut, Unreachable } from "../src/client/problem";
import type { Rest } from "../src/client/rest";
import { Session } from "../src/client/session";
import type { BotCommand, SessionReply, User } from "../src/protocol/messages";
import { deviceName } from "../src/state/app";
import { roomsOf, sectionsOf, titleOf, withEntry } from "../src/state/rooms";
import { commandOptions, isComplete, mentionOptions, triggerAt } from "../src/ui/composer/autocomplete";
import { commandIn, unescaped } from "../src/ui/composer/slash";
import { scoreOf, search } from "../src/ui/dialogs/switch";
import { initialsOf } from "../src/ui/parts/Avatar";
import { routeOf } from "../src/ui/router";
import { bannerText } from "../src/ui/shell/Banner";
import { offsetsOf, rangeOf } from "../src/ui/timeline/VirtualList";
import { dayOf } from "../src/ui/when";

const problem = (status: number) => new Refused({ code: "x", title: "x", status, detail: "x" });

describe("a session", () => {
  const reply = (token: string): SessionReply => ({
    user: { id: "usr_a", username: "a", display_name: "A" },
    device: "dev_1",
    access_token: token,
    expires_in: 600,
    refresh_token: "",
  });
  const rest = (refresh: Rest["refresh"]) => ({ refresh }) as Rest;
  beforeEach(() => localStorage.setItem("securechat-session", "1"));

  it("does not ask where nobody has signed in, nor again where the session is over", async () => {
    localStorage.clear();
    const refresh = vi.fn().mockRejectedValue(problem(401));
    await expect(new Session(rest(refresh)).accessToken()).rejects.toBeInstanceOf(SignedOut);
    expect(refresh).toHaveBeenCalledTimes(0);
    new Session(rest(refresh)).adopt(reply("t"));
    await expect(new Session(rest(refresh)).accessToken()).rejects.toBeInstanceOf(SignedOut);
    await expect(new Session(rest(refresh)).accessToken()).rejects.toBeInstanceOf(SignedOut);
    expect(refresh).toHaveBeenCalledTimes(1);
  });

  it("uses a token until shortly before its end", async () => {
    let now = 0;
    const refresh = vi.fn(async () => reply(`t${refresh.mock.calls.length}`));
    const session = new Session(rest(refresh), () => now);
    expect(await session.accessToken()).toBe("t1");
    expect(await session.accessToken()).toBe("t1");
    now = 590_000;
    expect(await session.accessToken()).toBe("t2");
    expect(await session.accessToken(true)).toBe("t3");
  });

  it("asks once for all who ask at the same time", async () => {
    const refresh = vi.fn(async () => reply("t"));
    const session = new Session(rest(refresh));
    await Promise.all([session.accessToken(), session.accessToken(), session.accessToken(true)]);
    expect(refresh).toHaveBeenCalledTimes(1);
  });

  it("is over when the server says so, and only then", async () => {
    const session = new Session(rest(() => Promise.reject(problem(401))));
    await expect(session.accessToken()).rejects.toBeInstanceOf(SignedOut);
    localStorage.setItem("securechat-session", "1");
    const offline = new Session(rest(() => Promise.reject(new Unreachable())));
    await expect(offline.accessToken()).rejects.toBeInstanceOf(Unreachable);
    const broken = new Session(rest(() => Promise.reject(problem(503))));
    await expect(broken.accessToken()).rejects.toBeInstanceOf(Refused);
  });

  it("forgives one refusal: another tab may have used the cookie first", async () => {
    vi.useFakeTimers();
    const refresh = vi.fn().mockRejectedValueOnce(problem(401)).mockResolvedValue(reply("t2"));
    const session = new Session(rest(refresh));
    session.adopt(reply("t1"));
    const token = session.accessToken(true);
    await vi.advanceTimersByTimeAsync(1_500);
    expect(await token).toBe("t2");
    vi.useRealTimers();
  });
});

describe("a text that begins with /", () => {
  it("is a command when it looks like one", () => {
    expect(["/roll", "/Roll 2", "/a-b_c d", "/roll\n2"].map(commandIn)).toEqual(["roll", "Roll", "a-b_c", "roll"]);
    for (const text of ["", "/", "/ 2", "/2", "/etc/hosts", "/a.b", "//roll", " /roll", "roll"])
      expect(commandIn(text)).toBe(null);
  });

  it("is sent as it is when there are two", () => {
    expect(["//roll 2", "//etc/hosts", "// a remark", "/roll", "hi"].map(unescaped)).toEqual([
      "/roll 2",
      "//etc/hosts",
      "// a remark",
      "/roll",
      "hi",
    ]);
  });
});

describe("completion", () => {
  const option = { name: "sides", type: "int", required: false, default: "" } as const;
  const commands: BotCommand[] = [
    { name: "roll", description: "Dice", options: [{ ...option, name: "dice", required: true }, option], bot: "b" },
    { name: "remind", description: "", options: [], bot: "b" },
  ];
  const people: User[] = [
    { id: "1", username: "bob", display_name: "Robert Ana" },
    { id: "2", username: "ana", display_name: "Ana" },
  ];

  it("begins at a slash at the start and at an at sign at a word's", () => {
    expect(triggerAt("/ro", 3)).toMatchObject({ kind: "command", query: "ro", start: 0, end: 3 });
    expect(triggerAt("a /ro", 5)).toBeNull();
    expect(triggerAt("/roll 3", 7)).toBeNull();
    expect(triggerAt("hi @An", 6)).toMatchObject({ kind: "mention", query: "an", start: 3, end: 6 });
    expect(triggerAt("hi @an there", 6)).toMatchObject({ query: "an", end: 6 });
    expect(triggerAt("a@b", 3)).toBeNull();
  });

  it("offers the best first", () => {
    expect(commandOptions(commands, "r").map((one) => one.label)).toEqual(["/roll dice [sides]", "/remind"]);
    expect(mentionOptions(people, "ana").map((one) => one.insert)).toEqual(["@ana ", "@bob "]);
    expect(mentionOptions(people, "zz")).toEqual([]);
  });

  it("leaves Enter to sending when the word is complete", () => {
    const trigger = triggerAt("/roll", 5);
    expect(trigger && isComplete(trigger, commandOptions(commands, "roll"))).toBe(true);
  });
});

describe("the switcher", () => {
  it("ranks beginnings before parts before letters", () => {
    expect([
      scoreOf("ops", "ops"),
      scoreOf("team ops", "ops"),
      scoreOf("drops", "ops"),
      scoreOf("o p s", "ops"),
    ]).toEqual([0, 1, 2, 3]);
    expect(scoreOf("dev", "ops")).toBeNull();
  });

  it("shows unread rooms first when nothing is typed, and is quick", () => {
    const targets = Array.from({ length: 5_000 }, (_, index) => ({
      key: String(index),
      title: `room ${index}`,
      hint: "",
      weight: index === 4_000 ? 2 : 1,
    }));
    expect(search(targets, "", 3)[0]?.key).toBe("4000");
    const started = performance.now();
    expect(search(targets, "#room 49", 12)).toHaveLength(12);
    expect(performance.now() - started).toBeLessThan(50);
  });
});

describe("rooms", () => {
  const rooms = roomsOf([
    { id: "1", kind: "private", name: "zeta", unread: 2, last_seq: 4 },
    { id: "2", kind: "public", name: "alpha" },
    { id: "3", kind: "direct", peer: { id: "u", username: "bo", display_name: "Bo" } },
  ]);

  it("are in sections, the one in view where it was", () => {
    const ids = (active: string | null, wasUnread: boolean) => {
      const { unread, rooms: others, people } = sectionsOf(rooms, active, wasUnread);
      return [unread, others, people].map((list) => list.map((room) => room.id).join());
    };
    expect(ids(null, false)).toEqual(["1", "2", "3"]);
    expect(ids("1", false)).toEqual(["", "2,1", "3"]);
    expect(ids("2", true)).toEqual(["2,1", "", "3"]);
  });

  it("count each entry once", () => {
    const entry = { type: "message.sent", room: "1", seq: 5, at: 0, user: "u", body: "x" } as const;
    const once = withEntry(rooms, entry, "me");
    expect(once.get("1")).toMatchObject({ unread: 3, lastSeq: 5 });
    expect(withEntry(once, entry, "me")).toBe(once);
    expect([...rooms.values()].map(titleOf)).toEqual(["zeta", "alpha", "Bo"]);
  });
});

describe("small things", () => {
  it("finds the rows in view", () => {
    const offsets = offsetsOf([10, 20, 30, 40]);
    expect(offsets).toEqual([0, 10, 30, 60, 100]);
    expect(rangeOf(offsets, 10, 31)).toEqual({ start: 1, end: 3 });
    expect(rangeOf(offsets, -50, 5)).toEqual({ start: 0, end: 1 });
    expect(rangeOf(offsets, 500, 900)).toEqual({ start: 3, end: 4 });
  });

  it("reads addresses", () => {
    expect(routeOf("/setup", "#t=abc")).toEqual({ name: "setup", token: "abc" });
    expect(routeOf("/i/AB-CD", "")).toEqual({ name: "invite", code: "AB-CD" });
    expect(routeOf("/r/rm_1", "")).toEqual({ name: "room", room: "rm_1" });
    expect(routeOf("/reset", "#t=x")).toEqual({ name: "reset", token: "x" });
    expect(routeOf("/", "")).toEqual({ name: "home" });
    expect(routeOf("/else", "")).toEqual({ name: "nowhere" });
  });

  it("is silent about the connection for three seconds", () => {
    const waiting = { phase: "waiting", retryAt: 9_000, calm: false } as const;
    expect(bannerText(waiting, 2_900, 5_000, false, false)).toBeNull();
    expect(bannerText(waiting, 3_100, 5_000, false, false)).toBe("Connection lost - retrying in 4\u00a0s");
    expect(bannerText({ ...waiting, calm: true }, 3_100, 5_000, false, false)).toContain("restarting");
    expect(bannerText({ phase: "online" }, 0, 0, true, false)).toBe("Back online - catching up…");
    expect(bannerText({ phase: "online" }, 0, 0, false, false)).toBeNull();
    expect(bannerText({ phase: "stopped", reason: "signed_out" }, 0, 0, false, false)).toBeNull();
  });

  it("names days, devices and people", () => {
    const now = new Date(2026, 5, 15, 12).getTime();
    expect(dayOf(now, now)).toBe("Today");
    expect(dayOf(now - 86_400_000, now)).toBe("Yesterday");
    expect(dayOf(now - 86_400_000 * 400, now)).toContain("2025");
    expect(deviceName("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")).toBe(
      "Firefox on Linux",
    );
    expect(["Ana Almeida", "ben", "", "Cho Min-ji"].map(initialsOf)).toEqual(["AA", "B", "?", "CJ"]);
  });
});
