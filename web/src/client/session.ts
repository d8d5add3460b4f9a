/** The signed-in device: who, and a fresh access token when one is needed. The token lives in memory only. */

import type { SessionReply, User } from "../protocol/messages";
import { exclusive } from "./locks";
import { recall, remember } from "./memory";
import { Refused, SignedOut } from "./problem";
import type { Rest } from "./rest";

/** A token is not used in its last seconds: it could end on the way. */
const MARGIN_MS = 15_000;
const SECOND_TRY_MS = 1_000;
/** Says that this browser has a session: its cookie cannot be seen from here. */
const HINT = "securechat-session";

const wait = (ms: number) => new Promise<void>((done) => setTimeout(done, ms));

export class Session {
  user: User | null = null;
  device = "";
  /** The role wants a second factor that is not set up yet. */
  mustEnrol = false;
  private token = "";
  private endsAt = 0;
  private refreshing: Promise<string> | null = null;
  private leaving: Promise<void> | null = null;

  constructor(
    private readonly rest: Rest,
    private readonly now: () => number = Date.now,
  ) {}

  /** Take the answer of a login, registration or setup in. */
  adopt(reply: SessionReply): void {
    this.user = reply.user;
    this.device = reply.device;
    this.mustEnrol = reply.enrol ?? false;
    this.token = reply.access_token;
    this.endsAt = this.now() + reply.expires_in * 1_000;
    remember(HINT, "1");
  }

  /**
   * Return an access token that still holds.
   *
   * @param fresh Do not reuse the one in memory: the server did not take it, or it ends soon.
   * @throws SignedOut There is no session in this browser any more.
   */
  async accessToken(fresh = false): Promise<string> {
    if (!fresh && this.token && this.now() < this.endsAt - MARGIN_MS) return this.token;
    this.refreshing ??= this.refresh().finally(() => {
      this.refreshing = null;
    });
    return this.refreshing;
  }

  async logout(): Promise<void> {
    const token = await this.accessToken();
    const left = this.rest.logout(token).then(() => this.forget());
    this.leaving = left.catch(() => {});
    await left;
  }

  forget(): void {
    this.token = "";
    this.user = null;
    remember(HINT, null);
  }

  /** All tabs share one cookie, and a refresh token works once: so one tab at a time. */
  private async refresh(): Promise<string> {
    // The server ends the connection before it answers a logout: nothing is asked for again until that is known.
    await this.leaving;
    // Who never signed in here is not worth a request that is refused.
    if (!this.user && recall(HINT) === null) throw new SignedOut();
    return exclusive("securechat-refresh", async () => {
      try {
        this.adopt(await this.rest.refresh());
      } catch (error) {
        if (!isUnauthorized(error)) throw error;
        // Where there are no locks, another tab may just have used the cookie; its successor is there a moment later.
        if (!this.user) {
          this.forget();
          throw new SignedOut();
        }
        await wait(SECOND_TRY_MS);
        await this.refreshAgain();
      }
      return this.token;
    });
  }

  private async refreshAgain(): Promise<void> {
    try {
      this.adopt(await this.rest.refresh());
    } catch (error) {
      if (!isUnauthorized(error)) throw error;
      this.forget();
      throw new SignedOut();
    }
  }
}

function isUnauthorized(error: unknown): boolean {
  return error instanceof Refused && (error.problem.status === 401 || error.problem.status === 403);
}
