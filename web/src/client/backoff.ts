/** Waiting before the next attempt. */

const CAP_MS = 60_000;
const FIRST_MS = 1_000;

/** Full jitter over 0 … min(60 s, 1 s · 2ⁿ), `attempt` counting from 0. */
export function backoffMs(attempt: number, random: () => number): number {
  return Math.round(random() * Math.min(CAP_MS, FIRST_MS * 2 ** Math.min(attempt, 16)));
}
