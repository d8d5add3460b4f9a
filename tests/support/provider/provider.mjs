/**
 * A real provider of OpenID Connect for tests: `oidc-provider`, with its own pages for signing in.
 *
 * Whoever signs in as NAME has the subject `sub-NAME` and the verified e-mail address `NAME@example.org`. Arguments: port, and the
 * redirect address of the one client.
 */

import Provider from "oidc-provider";

const [port, redirect] = process.argv.slice(2);

const issuer = `http://localhost:${port}`;
const provider = new Provider(issuer, {
  clients: [
    {
      client_id: "securechat",
      client_secret: "the secret of the client: %&+",
      redirect_uris: [redirect],
      grant_types: ["authorization_code"],
      response_types: ["code"],
    },
  ],
  claims: { openid: ["sub"], profile: ["name", "preferred_username"], email: ["email", "email_verified"] },
  conformIdTokenClaims: false,
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({
      sub: `sub-${id}`,
      name: `${id} of the provider`,
      preferred_username: id,
      email: `${id}@example.org`,
      email_verified: true,
    }),
  }),
  cookies: { keys: ["for tests only"] },
  pkce: { required: () => true },
  features: { devInteractions: { enabled: true } },
});

provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
