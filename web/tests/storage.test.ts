import { afterEach, describe, expect, it, vi } from "vitest";
import { KnownServer } from "../src/client/knownServer";
import { Storage } from "../src/client/storage";

afterEach(() => {
  vi.unstubAllGlobals();
});

function breakDatabase(): void {
  const open = () => {
    throw new DOMException("corrupt", "UnknownError");
  };
  vi.stubGlobal("indexedDB", { open });
}

describe("a browser whose storage does not open", () => {
  it("does not know a server by nothing: what is kept cannot be read", async () => {
    breakDatabase();
    const storage = await Storage.open();
    await expect(new KnownServer(storage, "chat.example.org").load()).rejects.toThrow("corrupt");
  });

  it("keeps drafts for as long as the page is open", async () => {
    breakDatabase();
    const storage = await Storage.open();
    await storage.put("drafts", "rm_1", { text: "half a" });
    expect(await storage.get("drafts", "rm_1")).toEqual({ text: "half a" });
    expect(await storage.demand("drafts", "rm_1")).toEqual({ text: "half a" });
  });
});

describe("a browser without storage", () => {
  it("has met nobody before", async () => {
    vi.stubGlobal("indexedDB", undefined);
    const storage = await Storage.open();
    expect((await new KnownServer(storage, "chat.example.org").load()).keys).toEqual([]);
  });
});
