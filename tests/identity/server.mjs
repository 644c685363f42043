// A real identity server (oidc-provider, certified by the OpenID Foundation) that issues JWTs for the client
// `tester`. Must not know who checks them.
//
// Usage: node server.mjs PORT KEY_PREFIX [KEY.pem CERTIFICATE.pem]
// Its keys are made anew at each start, one for each algorithm, and named KEY_PREFIX-ALGORITHM. A token is asked
// for with the resource urn:tidewire:ALGORITHM. Prints its URL once it serves.
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';

import { exportJWK, generateKeyPair } from 'jose';
import { Provider } from 'oidc-provider';

const ALGORITHMS = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'EdDSA'];
const [port, prefix, keyFile, certificateFile] = process.argv.slice(2);
const url = `${keyFile ? 'https' : 'http'}://localhost:${port}`;

const keys = await Promise.all(
  ALGORITHMS.map(async (alg) => {
    const { privateKey } = await generateKeyPair(alg, { extractable: true });
    return { ...(await exportJWK(privateKey)), alg, use: 'sig', kid: `${prefix}-${alg}` };
  }),
);

const provider = new Provider(url, {
  jwks: { keys },
  clients: [
    {
      client_id: 'tester',
      client_secret: 'a secret of the tests',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
    },
  ],
  enabledJWA: { idTokenSigningAlgValues: ALGORITHMS },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_context, resource) => ({
        scope: '',
        audience: 'tidewire',
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: resource.split(':').at(-1) } },
      }),
    },
  },
  ttl: { ClientCredentials: 60 },
  extraTokenClaims: () => ({ tidewire: { subscribe: ['chat:*'], publish: ['chat:*'] } }),
});

const handler = provider.callback();
const server = keyFile
  ? https.createServer({ key: readFileSync(keyFile), cert: readFileSync(certificateFile) }, handler)
  : http.createServer(handler);
server.listen(Number(port), 'localhost', () => console.log(url));
