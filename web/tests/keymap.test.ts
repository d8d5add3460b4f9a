import { describe, expect, it } from "vitest";
import { type Action, actionOf, KEYMAP, type Place } from "../src/ui/keymap";

function press(keys: string, more: object = {}) {
  const parts = keys === "+" ? [] : keys.split("+");
  const key = keys === "+" ? "+" : (parts.pop() as string);
  return {
    key,
    ctrlKey: parts.includes("Mod"),
    metaKey: false,
    altKey: parts.includes("Alt"),
    shiftKey: parts.includes("Shift"),
    ...more,
  };
}

describe("the table of keys", () => {
  it.each(KEYMAP.flatMap((binding) => binding.keys.map((keys) => [keys, binding.place, binding.action] as const)))(
    "%s in %s is %s",
    (keys, place, action) => {
      expect(actionOf(press(keys), place)).toBe(action);
    },
  );

  it.each<[string, Place]>([
    ["r", "everywhere"],
    ["e", "everywhere"],
    ["r", "composer"],
    ["Mod+r", "list"],
    ["Shift+Enter", "list"],
    ["Alt+Enter", "composer"],
  ])("%s in %s is nothing", (keys, place) => {
    expect(actionOf(press(keys), place)).toBeNull();
  });

  it("takes Cmd for Ctrl, and a sign with the Shift that it needs", () => {
    expect(actionOf(press("k", { metaKey: true }), "everywhere")).toBe<Action>("switcher");
    expect(actionOf(press("?", { shiftKey: true }), "list")).toBe<Action>("shortcuts");
  });

  it("leaves Enter to an input method", () => {
    expect(actionOf(press("Enter", { isComposing: true }), "composer")).toBeNull();
    expect(actionOf(press("Enter", { keyCode: 229 }), "composer")).toBeNull();
    expect(actionOf(press("Shift+Enter"), "composer")).toBe<Action>("composer.newline");
  });
});
