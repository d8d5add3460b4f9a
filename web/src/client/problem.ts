/** Refusals and failures, as one class. */

import type { Problem } from "../protocol/messages";

export class Refused extends Error {
  readonly problem: Problem;

  constructor(problem: Problem) {
    super(problem.detail || problem.title);
    this.problem = problem;
  }
}

/** No answer came: the request may or may not have been handled. */
export class Unreachable extends Error {
  constructor(why = "The server cannot be reached.") {
    super(why);
  }
}

/** The browser or the person did not bring a passkey. The message is for people. */
export class PasskeyTrouble extends Error {}

/** The session is over: only signing in again helps. */
export class SignedOut extends Error {}

/** Return whether the same request can never succeed as it is. */
export function isDefinite(problem: Problem): boolean {
  return !problem.retryable && problem.status >= 400 && problem.status < 500 && problem.status !== 401;
}

/** Return a sentence for a person. */
export function sentence(error: unknown): string {
  if (error instanceof Refused) return error.problem.detail || error.problem.title;
  if (error instanceof Unreachable || error instanceof PasskeyTrouble) return error.message;
  return "Something went wrong.";
}
