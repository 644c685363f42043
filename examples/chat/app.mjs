// The application of the chat: who somebody is, and that they write in their own name only. What is delivered to
// whom, and when, is Tidewire's business.
const SESSION_SECONDS = 86_400;
/** Tokens are short: the client asks for another when one ends. */
const TOKEN_SECONDS = 60;
const TEXT_CHARACTERS_MAX = 2000;
const ROOM = 'lobby';

const refuse = (status, message) => {
  throw Object.assign(new Error(message), { status });
};

export function routes({ token, userOf, publish }) {
  const somebody = (cookies) => userOf(cookies.session) ?? refuse(401, 'log in first');
  const isText = (value, most) => typeof value === 'string' && value.trim() !== '' && value.length <= most;

  return {
    'POST /login': ({ body }) => {
      const user = String(body.name ?? '');
      if (!/^[a-z]{1,20}$/.test(user)) refuse(400, 'a name is 1 to 20 letters, a to z');
      const cookie = `session=${token(user, SESSION_SECONDS)}; HttpOnly; SameSite=Strict; Path=/; Max-Age=${SESSION_SECONDS}`;
      return { body: { user, room: ROOM }, headers: { 'Set-Cookie': cookie } };
    },
    'GET /me': ({ cookies }) => ({ body: { user: userOf(cookies.session) ?? null, room: ROOM } }),
    'GET /token': ({ cookies }) => {
      const rights = { subscribe: [`chat:${ROOM}`, `receipts:${ROOM}`, `typing:${ROOM}`], presence: [`chat:${ROOM}`] };
      return { body: { token: token(somebody(cookies), TOKEN_SECONDS, rights) } };
    },
    'POST /messages': async ({ cookies, body }) => {
      const from = somebody(cookies);
      if (!isText(body.text, TEXT_CHARACTERS_MAX)) refuse(400, `a message has 1 to ${TEXT_CHARACTERS_MAX} characters`);
      if (!isText(body.id, 64)) refuse(400, 'a message has an id of its own');
      // The page sends it again until it knows; with its id as the key it is one message all the same.
      const key = { 'Idempotency-Key': `${from}-${body.id}`, 'Tidewire-Event': 'message' };
      return { body: await publish(`chat:${ROOM}`, { id: body.id, from, text: body.text }, key) };
    },
    'POST /receipts': async ({ cookies, body }) => {
      const user = somebody(cookies);
      if (!isText(body.upTo, 64)) refuse(400, 'upTo is the id of the newest event that was seen');
      return { body: await publish(`receipts:${ROOM}`, { user, upTo: body.upTo }, { 'Tidewire-Key': user }) };
    },
    'POST /typing': async ({ cookies }) => ({ body: await publish(`typing:${ROOM}`, { user: somebody(cookies) }) }),
  };
}
