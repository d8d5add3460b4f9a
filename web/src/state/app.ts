/** Signed in or not: which of the two worlds is shown, and the way from one to the other. */

import { type Signal, signal } from "@preact/signals";
import { backoffMs } from "../client/backoff";
import type { SocketLike } from "../client/channel";
import { KnownServer, pinsOf } from "../client/knownServer";
import { usePasskey } from "../client/passkeys";
import { SignedOut } from "../client/problem";
import { type Answer, type NewAccount, type Rest, rest } from "../client/rest";
import { Session } from "../client/session";
import { Storage } from "../client/storage";
import type { Invitation, ProviderOutcome, SessionReply } from "../protocol/messages";
import { Access } from "./access";
import { Chat } from "./chat";
import { Security } from "./security";

export type Screen =
  | { kind: "loading" }
  | { kind: "unreachable" }
  | { kind: "signed_out"; wasIn: boolean }
  | { kind: "enrol" }
  | { kind: "chat"; chat: Chat };

const UNNAMED = "SecureChat";

export class App {
  readonly screen: Signal<Screen> = signal({ kind: "loading" });
  /** What people call this server: the page says it, later the connection does. */
  readonly serverName: Signal<string>;
  /** Whether it has no name yet, as before it is set up. */
  readonly isUnnamed: boolean;
  readonly security: Security;
  readonly access: Access;
  private readonly session: Session;
  private storage: Storage | null = null;
  private attempt = 0;
  /** Keys that the link names which opened this page. */
  private readonly pins = pinsOf(location.hash);

  constructor(private readonly api: Rest = rest) {
    const named = document.querySelector<HTMLMetaElement>('meta[name="application-name"]');
    this.serverName = signal(named?.content || UNNAMED);
    this.isUnnamed = this.serverName.peek() === UNNAMED;
    this.session = new Session(api);
    this.security = new Security(api, () => this.session.accessToken());
    this.access = new Access(api, () => this.session.accessToken());
  }

  /** Take up the session that this browser has, if it has one. */
  async restore(): Promise<void> {
    try {
      await this.session.accessToken();
      await this.enter();
    } catch (error) {
      if (error instanceof SignedOut) {
        this.screen.value = { kind: "signed_out", wasIn: false };
        return;
      }
      this.screen.value = { kind: "unreachable" };
      setTimeout(() => void this.restore(), 1_000 + backoffMs(this.attempt++, Math.random));
    }
  }

  login(username: string, password: string, code: string): Promise<void> {
    return this.begin(this.api.login({ username, password, code, device_name: deviceName() }));
  }

  /** Sign in with whatever passkey the person chooses; no name is asked for. */
  async loginByPasskey(): Promise<void> {
    const { ticket, options } = await this.api.passkeyChallenge();
    const credential = await usePasskey(options);
    await this.begin(this.api.loginByPasskey({ ticket, credential, device_name: deviceName() }));
  }

  finishProvider(answer: Answer): Promise<ProviderOutcome> {
    return this.api.finishProvider(answer);
  }

  loginByProvider(ticket: string, code: string): Promise<void> {
    return this.begin(this.api.loginByProvider({ ticket, code, device_name: deviceName() }));
  }

  registerByProvider(ticket: string, username: string, display_name: string, invitation: string): Promise<void> {
    const body = { ticket, username, display_name, code: invitation, device_name: deviceName() };
    return this.begin(this.api.registerByProvider(body));
  }

  /** The second factor that the role wants is there: go on to the chat. */
  async enrolled(): Promise<void> {
    this.session.mustEnrol = false;
    await this.enter();
  }

  setup(account: Omit<NewAccount, "device_name">, token: string, serverName: string): Promise<void> {
    const reply = this.api.setup({ ...account, device_name: deviceName(), token, server_name: serverName });
    return this.begin(reply, true);
  }

  register(account: Omit<NewAccount, "device_name">, code: string): Promise<void> {
    return this.begin(this.api.register({ ...account, device_name: deviceName(), code }));
  }

  invitation(code: string): Promise<Invitation> {
    return this.api.invitation(code);
  }

  async resetPassword(token: string, password: string): Promise<void> {
    await this.api.resetPassword({ token, password });
  }

  async logout(): Promise<void> {
    await this.session.logout();
    this.leave(false);
  }

  private async begin(reply: Promise<SessionReply>, isNewServer = false): Promise<void> {
    this.session.adopt(await reply);
    await this.enter(isNewServer);
  }

  private async enter(isNewServer = false): Promise<void> {
    const { user } = this.session;
    if (!user) return;
    if (this.session.mustEnrol) {
      this.screen.value = { kind: "enrol" };
      return;
    }
    this.storage ??= await Storage.open();
    const server = new KnownServer(this.storage, location.host.toLowerCase());
    if (isNewServer) await server.setUp();
    await server.suggest(this.pins);
    const chat = new Chat(
      user,
      this.session.device,
      this.storage,
      {
        open: (url, protocols) => new WebSocket(url, protocols) as SocketLike,
        url: `${location.protocol === "http:" ? "ws" : "wss"}://${location.host}/gateway`,
        server,
        token: async (fresh) => {
          const token = await this.session.accessToken(fresh);
          if (this.session.mustEnrol) throw new SignedOut();
          return token;
        },
        random: Math.random,
        now: Date.now,
      },
      () => {
        const { value } = this.screen;
        if (value.kind !== "chat" || value.chat !== chat) return;
        if (this.session.mustEnrol) this.toEnrolment();
        else this.leave(true);
      },
    );
    this.screen.value = { kind: "chat", chat };
    await chat.start();
  }

  /** The operator began to ask for a second factor while one was in. */
  private toEnrolment(): void {
    const { value } = this.screen;
    this.screen.value = { kind: "enrol" };
    if (value.kind === "chat") value.chat.stop();
  }

  private leave(wasIn: boolean): void {
    const { value } = this.screen;
    this.session.forget();
    if (value.kind === "chat") this.serverName.value = value.chat.serverName.value;
    this.screen.value = { kind: "signed_out", wasIn };
    if (value.kind === "chat") value.chat.stop();
  }
}

/** Return what this browser is called in the list of devices: "Firefox on Linux". */
export function deviceName(agent = navigator.userAgent): string {
  const browsers: [RegExp, string][] = [
    [/Edg\//, "Edge"],
    [/OPR\//, "Opera"],
    [/Firefox\//, "Firefox"],
    [/Chrome\//, "Chrome"],
    [/Safari\//, "Safari"],
  ];
  const systems: [RegExp, string][] = [
    [/Android/, "Android"],
    [/iPhone|iPad/, "iOS"],
    [/Windows/, "Windows"],
    [/Mac OS X/, "macOS"],
    [/Linux/, "Linux"],
  ];
  const nameIn = (table: [RegExp, string][]) => table.find(([pattern]) => pattern.test(agent))?.[1];
  const browser = nameIn(browsers) ?? "Browser";
  const system = nameIn(systems);
  return system ? `${browser} on ${system}` : browser;
}
