/** What a tab keeps while the browser is at a sign-in provider, and addresses that lead to pages of their own. */

import { beforeEach, describe, expect, test } from "vitest";
import { type Away, recall, remember } from "../src/client/away";
import { routeOf } from "../src/ui/router";

const away: Away = { provider: "p", state: "s", ticket: "t", what: "login", invitation: "", back: "/r/rm_1" };

beforeEach(() => sessionStorage.clear());

describe("what a tab keeps while it is away", () => {
  test("is taken once", () => {
    remember(away);
    expect(recall()).toEqual(away);
    expect(recall()).toBeNull();
  });

  test("leads back into this client only", () => {
    for (const back of ["https://evil.example/", "//evil.example/", "javascript:alert(1)", ""]) {
      remember({ ...away, back });
      expect(recall()).toBeNull();
    }
  });

  test("is nothing when it cannot be read", () => {
    sessionStorage.setItem("securechat-away", "{");
    expect(recall()).toBeNull();
  });
});

test("providers, apps and devices have addresses of their own", () => {
  expect(routeOf("/oidc/acme", "")).toEqual({ name: "oidc", provider: "acme" });
  expect(routeOf("/oauth/authorize", "")).toEqual({ name: "authorize" });
  expect(routeOf("/oauth/other", "")).toEqual({ name: "nowhere" });
  expect(routeOf("/device", "")).toEqual({ name: "device" });
});
