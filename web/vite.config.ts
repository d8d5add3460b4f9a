/// <reference types="vitest/config" />
import { defineConfig } from "vite";

const server = process.env.SECURECHAT_DEV_SERVER ?? "http://127.0.0.1:9080";

export default defineConfig({
  build: {
    target: "es2022",
    modulePreload: { polyfill: false },
    // A data: URL in CSS would be legal under our policy, but one way of loading is easier to reason about.
    assetsInlineLimit: 0,
    reportCompressedSize: false,
  },
  server: {
    proxy: {
      "/api": server,
      "/gateway": { target: server, ws: true },
    },
  },
  test: {
    environment: "happy-dom",
    include: ["tests/**/*.test.{ts,tsx}"],
    setupFiles: ["tests/setup.ts"],
  },
});
