/** Who has to set up a second factor first, and what is asked of the server for it. */

import { describe, expect, test, vi } from "vitest";
import { hasPasskeys } from "../src/client/passkeys";
import { type Rest, rest } from "../src/client/rest";
import type { SessionReply } from "../src/protocol/messages";
import { App } from "../src/state/app";
import { Security } from "../src/state/security";

const reply = (enrol: boolean): SessionReply => ({
  user: { id: "usr_1", username: "ana", display_name: "Ana" },
  device: "dev_1",
  access_token: "token",
  expires_in: 600,
  refresh_token: "",
  enrol,
});

const fake = (methods: Partial<Rest>): Rest => ({ ...rest, ...methods });

describe("a role that must have a second factor", () => {
  test("is led through setting one up, after signing in and after a reload", async () => {
    const app = new App(fake({ login: async () => reply(true), refresh: async () => reply(true) }));
    await app.login("ana", "correct horse", "");
    expect(app.screen.value.kind).toBe("enrol");

    const reloaded = new App(fake({ refresh: async () => reply(true) }));
    await reloaded.restore();
    expect(reloaded.screen.value.kind).toBe("enrol");
  });

  test("may log out instead", async () => {
    const logout = vi.fn(async () => ({}));
    const app = new App(fake({ login: async () => reply(true), logout }));
    await app.login("ana", "correct horse", "");
    await app.logout();
    expect(logout).toHaveBeenCalledWith("token");
    expect(app.screen.value).toEqual({ kind: "signed_out", wasIn: false });
  });
});

test("a change travels with the token of now", async () => {
  const confirmTotp = vi.fn(async () => ({ recovery_codes: ["A"] }));
  const security = new Security(fake({ confirmTotp }), async () => "fresh");
  expect(await security.confirmTotp("ticket", "123456")).toEqual(["A"]);
  expect(confirmTotp).toHaveBeenCalledWith("fresh", { ticket: "ticket", code: "123456" });
});

test("a browser without passkeys is not offered any", () => {
  expect(hasPasskeys()).toBe(false);
});
