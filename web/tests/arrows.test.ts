// @vitest-environment node
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";

/** Imports go one way: ui → state → client → protocol → crypto. */
const FLOORS = ["crypto", "protocol", "client", "state", "ui"];
const source = new URL("../src/", import.meta.url);
const files = readdirSync(source, { recursive: true, encoding: "utf8" }).filter((name) => /\.tsx?$/.test(name));

const read = (name: string) => readFileSync(new URL(name, source), "utf8");
const floorOf = (path: string) => FLOORS.findIndex((floor) => path === floor || path.startsWith(`${floor}/`));

describe("the folders", () => {
  it.each(files.filter((name) => floorOf(name) >= 0))("%s looks down only", (name) => {
    for (const [, target] of read(name).matchAll(/from "(\.[^"]+)"/g)) {
      const path = new URL(target as string, new URL(name, source)).pathname.slice(source.pathname.length);
      expect(floorOf(path), `${name} imports ${path}`).toBeLessThanOrEqual(floorOf(name));
    }
  });

  it.each(files)("%s writes no markup and asks nobody else", (name) => {
    const text = read(name);
    expect(text).not.toMatch(
      /innerHTML|outerHTML|insertAdjacentHTML|document\.write|dangerouslySet|\beval\(|new Function/,
    );
    expect(text.replace(/http:\/\/www\.w3\.org/g, "")).not.toMatch(/"https?:\/\/[a-z]/);
    expect(text.split("\n").length).toBeLessThanOrEqual(480);
  });
});
