/** One's own password and second factors. Over REST: it also works where the gateway does not let one in yet. */

import { makePasskey, usePasskey } from "../client/passkeys";
import type { Rest } from "../client/rest";
import type { Factors, TotpSecret } from "../protocol/messages";

export class Security {
  constructor(
    private readonly api: Rest,
    private readonly token: () => Promise<string>,
  ) {}

  async factors(): Promise<Factors> {
    return this.api.factors(await this.token());
  }

  async confirm(password: string, code: string): Promise<void> {
    await this.api.confirm(await this.token(), { password, code });
  }

  async confirmByPasskey(): Promise<void> {
    const { ticket, options } = await this.api.passkeyChallenge();
    const credential = await usePasskey(options);
    await this.api.confirm(await this.token(), { ticket, credential });
  }

  async changePassword(current: string, password: string): Promise<void> {
    await this.api.changePassword(await this.token(), { current, password });
  }

  async beginTotp(): Promise<TotpSecret> {
    return this.api.beginTotp(await this.token());
  }

  /** Turn the authenticator app on; return recovery codes if these are the first. */
  async confirmTotp(ticket: string, code: string): Promise<string[]> {
    return (await this.api.confirmTotp(await this.token(), { ticket, code })).recovery_codes;
  }

  async removeTotp(): Promise<void> {
    await this.api.removeTotp(await this.token());
  }

  /** Make a passkey and add it; return recovery codes if these are the first. */
  async addPasskey(name: string): Promise<string[]> {
    const { ticket, options } = await this.api.beginPasskey(await this.token());
    const credential = await makePasskey(options);
    return (await this.api.addPasskey(await this.token(), { ticket, credential, name })).recovery_codes;
  }

  async removePasskey(id: string): Promise<void> {
    await this.api.removePasskey(await this.token(), id);
  }

  async createCodes(): Promise<string[]> {
    return (await this.api.createCodes(await this.token())).recovery_codes;
  }
}
