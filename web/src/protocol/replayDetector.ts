/**
 * Every record once, in order, and not late (spec/session-layer.md 6).
 *
 * A WebSocket keeps order, so the next record has exactly the next number: there is no window in which something could be
 * repeated. The timestamp only bounds how long somebody may hold a record back; a client's estimate of the server's time is
 * a lower bound, so it takes what seems to come from the future.
 */

import { PROTOCOL, REKEY_REQUIRED, SessionRefused } from "../crypto/wire";

const LATE_MS = 120_000;
const BACKWARDS_MS = 1_000;

export class ReplayDetector {
  private next = 0;
  private newestMs = 0;

  constructor(private readonly epoch: number) {}

  /** Take the number of an authentic record; 4400 for a replay, a gap, or a record of another epoch. */
  admit(epoch: number, seq: number): void {
    if (epoch !== this.epoch || seq !== this.next) throw new SessionRefused(PROTOCOL, "replay");
    this.next += 1;
  }

  /** Take its timestamp, after it was opened; 4403 when it was held back. */
  fresh(timestampMs: number, nowMs: number): void {
    if (timestampMs < nowMs - LATE_MS) throw new SessionRefused(REKEY_REQUIRED, "stale");
    if (timestampMs < this.newestMs - BACKWARDS_MS) throw new SessionRefused(REKEY_REQUIRED, "time runs backwards");
    this.newestMs = Math.max(this.newestMs, timestampMs);
  }
}
