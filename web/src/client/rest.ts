/** The few REST requests that come before the gateway, or change what it rests on: sessions, setup, invitations, factors. */

import type {
  Consent,
  ExternalAccount,
  Factors,
  Grant,
  Invitation,
  PasskeyOptions,
  PersonalToken,
  Problem,
  ProviderOutcome,
  ProviderStart,
  RecoveryCodes,
  SessionReply,
  SignInProvider,
  TotpSecret,
} from "../protocol/messages";
import { Refused, Unreachable } from "./problem";

const BASE = "/api/v1";
/** Asks the server to keep the refresh token in an HttpOnly cookie. */
const BROWSER = { "X-SecureChat-Session": "cookie" };

async function problemOf(response: Response): Promise<Problem> {
  try {
    const problem = (await response.json()) as Partial<Problem>;
    if (typeof problem.code === "string") {
      return {
        code: problem.code,
        title: problem.title ?? "",
        status: problem.status ?? response.status,
        detail: problem.detail ?? "",
        retryable: response.status === 429 || response.status >= 500,
        field: problem.field,
        retry_after_ms: problem.retry_after_ms,
      };
    }
  } catch {
    // A proxy in between answers HTML; the status says enough.
  }
  const title = response.status >= 500 ? "The server has a problem" : "The request was refused";
  const detail = `${title} (${response.status}).`;
  return { code: "http", title, status: response.status, detail, retryable: response.status >= 500 };
}

async function request<T>(method: string, path: string, body?: unknown, headers: HeadersInit = {}): Promise<T> {
  let response: Response;
  try {
    response = await fetch(BASE + path, {
      method,
      headers: body === undefined ? headers : { "Content-Type": "application/json", ...headers },
      body: body === undefined ? null : JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
    });
  } catch {
    throw new Unreachable();
  }
  if (!response.ok) throw new Refused(await problemOf(response));
  if (response.status === 204) return undefined as T;
  try {
    return (await response.json()) as T;
  } catch {
    throw new Unreachable("The server's answer could not be read.");
  }
}

export interface NewAccount {
  username: string;
  password: string;
  display_name: string;
  device_name: string;
}

/** How one shows that it is oneself: by a password and perhaps a code, or by a passkey. */
export type Proof = { password: string; code: string } | { ticket: string; credential: unknown };

/** What a provider sent the browser back with, and the ticket that waited here. */
export interface Answer {
  provider: string;
  ticket: string;
  state: string;
  code: string;
  iss: string;
}

/** What stands in the address that an app sent somebody to; or the code that a device shows. */
export type ConsentRequest = Record<string, string>;

const at = (answer: Answer) => {
  const { provider, ...body } = answer;
  return [encodeURIComponent(provider), body] as const;
};

const bearer = (token: string) => ({ Authorization: `Bearer ${token}` });

export const rest = {
  login: (body: { username: string; password: string; code: string; device_name: string }) =>
    request<SessionReply>("POST", "/sessions", body, BROWSER),
  passkeyChallenge: () =>
    request<PasskeyOptions<PublicKeyCredentialRequestOptionsJSON>>("POST", "/passkeys:challenge", {}),
  loginByPasskey: (body: { ticket: string; credential: unknown; device_name: string }) =>
    request<SessionReply>("POST", "/sessions/passkey", body, BROWSER),
  refresh: () => request<SessionReply>("POST", "/sessions/refresh", { refresh_token: "" }, BROWSER),
  setup: (body: NewAccount & { token: string; server_name: string }) =>
    request<SessionReply>("POST", "/setup", body, BROWSER),
  register: (body: NewAccount & { code: string }) => request<SessionReply>("POST", "/accounts", body, BROWSER),
  invitation: (code: string) => request<Invitation>("GET", `/invites/${encodeURIComponent(code)}`),
  resetPassword: (body: { token: string; password: string }) => request<unknown>("POST", "/password-reset", body),
  logout: (token: string) =>
    request<unknown>("DELETE", "/sessions/current", undefined, { ...BROWSER, ...bearer(token) }),
  confirm: (token: string, proof: Proof) => request<unknown>("POST", "/sessions/current/confirm", proof, bearer(token)),
  changePassword: (token: string, body: { current: string; password: string }) =>
    request<unknown>("PUT", "/password", body, bearer(token)),
  factors: (token: string) => request<Factors>("GET", "/factors", undefined, bearer(token)),
  beginTotp: (token: string) => request<TotpSecret>("POST", "/factors/totp:begin", {}, bearer(token)),
  confirmTotp: (token: string, body: { ticket: string; code: string }) =>
    request<RecoveryCodes>("POST", "/factors/totp", body, bearer(token)),
  removeTotp: (token: string) => request<unknown>("DELETE", "/factors/totp", undefined, bearer(token)),
  beginPasskey: (token: string) =>
    request<PasskeyOptions<PublicKeyCredentialCreationOptionsJSON>>(
      "POST",
      "/factors/passkeys:begin",
      {},
      bearer(token),
    ),
  addPasskey: (token: string, body: { ticket: string; credential: unknown; name: string }) =>
    request<RecoveryCodes>("POST", "/factors/passkeys", body, bearer(token)),
  removePasskey: (token: string, id: string) =>
    request<unknown>("DELETE", `/factors/passkeys/${encodeURIComponent(id)}`, undefined, bearer(token)),
  providers: () => request<{ providers: SignInProvider[] }>("GET", "/providers"),
  beginProvider: (provider: string, origin: string) =>
    request<ProviderStart>("POST", `/providers/${encodeURIComponent(provider)}/begin`, { origin }),
  finishProvider: (answer: Answer) => {
    const [provider, body] = at(answer);
    return request<ProviderOutcome>("POST", `/providers/${provider}/finish`, body);
  },
  loginByProvider: (body: { ticket: string; code: string; device_name: string }) =>
    request<SessionReply>("POST", "/sessions/provider", body, BROWSER),
  registerByProvider: (body: {
    ticket: string;
    username: string;
    display_name: string;
    code: string;
    device_name: string;
  }) => request<SessionReply>("POST", "/accounts/provider", body, BROWSER),
  externals: (token: string) =>
    request<{ externals: ExternalAccount[] }>("GET", "/externals", undefined, bearer(token)),
  beginExternal: (token: string, provider: string, origin: string) =>
    request<ProviderStart>("POST", `/externals/${encodeURIComponent(provider)}/begin`, { origin }, bearer(token)),
  addExternal: (token: string, answer: Answer) => {
    const [provider, body] = at(answer);
    return request<unknown>("POST", `/externals/${provider}/finish`, body, bearer(token));
  },
  removeExternal: (token: string, id: string) =>
    request<unknown>("DELETE", `/externals/${encodeURIComponent(id)}`, undefined, bearer(token)),
  consent: (token: string, body: ConsentRequest) => request<Consent>("POST", "/consents:get", body, bearer(token)),
  giveConsent: (token: string, body: ConsentRequest, approve: boolean) =>
    request<{ url: string }>("POST", "/consents", { ...body, approve }, bearer(token)),
  grants: (token: string) => request<{ grants: Grant[] }>("GET", "/grants", undefined, bearer(token)),
  revokeGrant: (token: string, app: string) =>
    request<unknown>("DELETE", `/grants/${encodeURIComponent(app)}`, undefined, bearer(token)),
  tokens: (token: string) => request<{ tokens: PersonalToken[] }>("GET", "/tokens", undefined, bearer(token)),
  createToken: (token: string, body: { name: string; scopes: string[]; expires_days: number }) =>
    request<{ token: PersonalToken; secret: string }>("POST", "/tokens", body, bearer(token)),
  revokeToken: (token: string, id: string) =>
    request<unknown>("DELETE", `/tokens/${encodeURIComponent(id)}`, undefined, bearer(token)),
  createCodes: (token: string) => request<RecoveryCodes>("POST", "/factors/recovery-codes", {}, bearer(token)),
};

export type Rest = typeof rest;
