// An OpenID Provider (panva's oidc-provider, OpenID certified) that issues JWT
// access tokens for the audience "api" and tells the client's back-channel
// logout address when a session ends. It signs with a key of its own, so that a
// provider that is started again has rotated its keys.
//
//   node provider.mjs PORT BACKCHANNEL_LOGOUT_URI

import { generateKeyPairSync, randomUUID } from "node:crypto";
import Provider from "oidc-provider";

const [port, logoutURI] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: "shop",
      client_secret: "a-secret-of-the-test",
      redirect_uris: ["http://127.0.0.1/callback"],
      response_types: ["code"],
      grant_types: ["authorization_code"],
      backchannel_logout_uri: logoutURI,
      backchannel_logout_session_required: true,
    },
  ],
  jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), kid: randomUUID(), use: "sig", alg: "RS256" }] },
  // The provider sends nothing to private addresses by default; the test is on one.
  fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
  cookies: { keys: ["test"] },
  features: {
    backchannelLogout: { enabled: true },
    devInteractions: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: () => ({ scope: "read", audience: "api", accessTokenTTL: 300, accessTokenFormat: "jwt" }),
      useGrantedResource: () => true,
    },
    rpInitiatedLogout: { enabled: true },
  },
});

provider.on("backchannel.error", (ctx, err) => console.error("backchannel.error", err.message));
provider.on("backchannel.success", () => console.error("backchannel.success"));
provider.on("server_error", (ctx, err) => console.error("server_error", err));
provider.listen(Number(port), "127.0.0.1", () => console.error("listening"));
