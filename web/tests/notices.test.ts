/** What the rows say that are no messages. */

import { expect, test } from "vitest";
import type { Entry } from "../src/protocol/messages";
import { quote } from "../src/ui/quote";
import { noticeText } from "../src/ui/timeline/rows";

function updated(fields: Partial<Entry>): string {
  const entry: Entry = { type: "room.updated", room: "rm_1", seq: 1, at: 1, user: "usr_ana", ...fields };
  return noticeText(entry, "usr_bob", () => "Ana");
}

test("people see that what they say goes elsewhere, and when it does not any more", () => {
  expect(updated({ subscribed: "hooks.example.org" })).toBe(
    "Ana subscribed hooks.example.org: what happens here is sent there from now on",
  );
  expect(updated({ unsubscribed: "hooks.example.org" })).toBe("Ana ended a subscription of hooks.example.org");
  expect(updated({ topic: "t" })).toBe("Ana set the topic to “t”");
});

test("a message that is answered is one line, without markup, and says when there is more", () => {
  expect(quote("**Done**:\n`make` ~~fails~~ works")).toBe("Done: make fails works");
  expect(quote("a".repeat(120))).toBe("a".repeat(120));
  expect(quote("👍".repeat(121))).toBe(`${"👍".repeat(120)}…`);
});
