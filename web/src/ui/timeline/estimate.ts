import type { Row } from "../../state/rows";

/** Guess the height of a row that was never shown, in pixels. */
export function estimate(row: Row): number {
  switch (row.type) {
    case "day":
      return 44;
    case "new":
      return 28;
    case "start":
      return 220;
    case "notice":
    case "folded":
      return 32;
    default: {
      const { body, replyTo, reactions } = row.message;
      const lines = Math.max(1, Math.ceil(body.length / 90), body.split("\n", 40).length);
      return (row.head ? 38 : 6) + 22 * lines + (replyTo ? 26 : 0) + (Object.keys(reactions).length ? 34 : 0);
    }
  }
}
