/** Other ways in and other ones who are let in: accounts at providers, apps, tokens. Over REST. */

import { remember } from "../client/away";
import type { Answer, ConsentRequest, Rest } from "../client/rest";
import type { Consent, ExternalAccount, Grant, PersonalToken, SignInProvider } from "../protocol/messages";

export const SCOPES: readonly (readonly [string, string])[] = [
  ["profile", "See who you are"],
  ["rooms:read", "See your rooms and people"],
  ["rooms:write", "Change rooms and members"],
  ["messages:read", "Read messages"],
  ["messages:write", "Write messages"],
];

export class Access {
  constructor(
    private readonly api: Rest,
    private readonly token: () => Promise<string>,
  ) {}

  async providers(): Promise<SignInProvider[]> {
    return (await this.api.providers()).providers;
  }

  /** Leave for a provider, to sign in. */
  async leaveToSignIn(provider: string, invitation: string): Promise<void> {
    const { url, state, ticket } = await this.api.beginProvider(provider, location.origin);
    const back = invitation ? "/" : location.pathname + location.search;
    remember({ provider, state, ticket, what: "login", invitation, back });
    location.assign(url);
  }

  /** Leave for a provider, to link an account there. */
  async leaveToLink(provider: string): Promise<void> {
    const { url, state, ticket } = await this.api.beginExternal(await this.token(), provider, location.origin);
    remember({ provider, state, ticket, what: "link", invitation: "", back: location.pathname });
    location.assign(url);
  }

  async link(answer: Answer): Promise<void> {
    await this.api.addExternal(await this.token(), answer);
  }

  async externals(): Promise<ExternalAccount[]> {
    return (await this.api.externals(await this.token())).externals;
  }

  async removeExternal(id: string): Promise<void> {
    await this.api.removeExternal(await this.token(), id);
  }

  async consent(request: ConsentRequest): Promise<Consent> {
    return this.api.consent(await this.token(), request);
  }

  /** Answer an app; return where the browser goes, empty for a device. */
  async giveConsent(request: ConsentRequest, approve: boolean): Promise<string> {
    return (await this.api.giveConsent(await this.token(), request, approve)).url;
  }

  async grants(): Promise<Grant[]> {
    return (await this.api.grants(await this.token())).grants;
  }

  async revokeGrant(app: string): Promise<void> {
    await this.api.revokeGrant(await this.token(), app);
  }

  async tokens(): Promise<PersonalToken[]> {
    return (await this.api.tokens(await this.token())).tokens;
  }

  async createToken(name: string, scopes: string[], days: number): Promise<string> {
    return (await this.api.createToken(await this.token(), { name, scopes, expires_days: days })).secret;
  }

  async revokeToken(id: string): Promise<void> {
    await this.api.revokeToken(await this.token(), id);
  }
}
