/** Fail when what a browser loads first is larger than the budget. Sizes are gzip, in kB of 1,000 bytes. */

import { readdirSync, readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const BUDGET_KB = { js: 110, css: 20 };
const assets = new URL("../dist/assets/", import.meta.url);

const sizes = { js: 0, css: 0 };
for (const name of readdirSync(assets)) {
  const kind = name.split(".").pop();
  if (kind in sizes) sizes[kind] += gzipSync(readFileSync(new URL(name, assets)), { level: 9 }).length;
}

let isOver = false;
for (const [kind, bytes] of Object.entries(sizes)) {
  const kb = bytes / 1000;
  const verdict = kb > BUDGET_KB[kind] ? "over" : "ok";
  isOver ||= verdict === "over";
  console.log(`${kind.padEnd(4)} ${kb.toFixed(1).padStart(6)} kB gz of ${BUDGET_KB[kind]} kB  ${verdict}`);
}
process.exit(isOver ? 1 : 0);
