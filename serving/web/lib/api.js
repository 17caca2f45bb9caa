// Talks to the server. The key comes in the link's fragment, which no server or log sees, and stays in this tab.
const STORE = 'consilium.key';
const fragment = new URLSearchParams(location.hash.slice(1));
export const wanted = { evidence: fragment.get('evidence'), conversation: fragment.get('conversation'), patient: fragment.get('patient') };
if (fragment.get('key')) sessionStorage.setItem(STORE, fragment.get('key'));
if (location.hash) history.replaceState(null, '', location.pathname);

export const hasKey = () => Boolean(sessionStorage.getItem(STORE));
export const headers = (more = {}) => {
  const key = sessionStorage.getItem(STORE);
  return key ? { Authorization: `Bearer ${key}`, ...more } : more;
};

export class Problem extends Error {
  constructor(body, status) {
    super(body.detail ?? body.title ?? `HTTP ${status}`);
    this.hint = body.hint ?? '';
    this.status = status;
  }
}

async function checked(response) {
  if (response.ok) return response;
  throw new Problem(await response.json().catch(() => ({})), response.status);
}

const call = async (method, path, body, more) => checked(await fetch(path, {
  method, headers: headers(body === undefined ? {} : { 'Content-Type': 'application/json' }),
  ...(body === undefined ? {} : { body: JSON.stringify(body) }), ...more }));

export const get = async (path) => (await call('GET', path)).json();
export const blob = async (path) => (await call('GET', path)).blob();
export const raw = async (path, signal) => call('GET', path, undefined, { signal });
export const post = async (path, body) => {
  const response = await call('POST', path, body);
  return response.status === 204 ? null : response.json();
};
export const put = async (path, body) => (await call('PUT', path, body)).json();
export const patch = async (path, body) => (await call('PATCH', path, body)).json();
export const remove = async (path) => call('DELETE', path);

// Uploads tell how far they are, which fetch can't: `sent` gets the number of bytes that have left.
export const upload = (files, fields, sent) => new Promise((resolve, reject) => {
  const form = new FormData();
  for (const file of files) form.append('files', file, file.path || file.webkitRelativePath || file.name);
  for (const [name, value] of Object.entries(fields)) if (value) form.append(name, value);
  const request = new XMLHttpRequest();
  request.open('POST', '/v1/studies');
  for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
  request.responseType = 'json';
  request.upload.addEventListener('progress', (event) => sent(event.loaded));
  request.addEventListener('load', () => (request.status < 300 ? resolve(request.response)
    : reject(new Problem(request.response ?? {}, request.status))));
  request.addEventListener('error', () => reject(new TypeError('no answer')));
  request.send(form);
});

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value.replaceAll('\r\n', '\n');
    for (let end = buffer.indexOf('\n\n'); end >= 0; end = buffer.indexOf('\n\n')) {
      const lines = buffer.slice(0, end).split('\n');
      buffer = buffer.slice(end + 2);
      const part = (name) => lines.filter((l) => l.startsWith(`${name}:`)).map((l) => l.slice(name.length + 1).trimStart()).join('\n');
      if (part('event') && part('data')) yield { id: Number(part('id')), name: part('event'), data: JSON.parse(part('data')) };
    }
  }
}

const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });
const TRIES = 8;

// Server-sent events over POST. A stream that breaks is taken up where it was, so that no event is lost and none comes twice.
export async function* stream(path, body, lost = () => {}) {
  let last = null;
  let whole = false;
  for (let tries = 0; ; tries += 1) {
    try {
      const response = await checked(await fetch(path, {
        method: 'POST', body: JSON.stringify(body),
        headers: headers({ 'Content-Type': 'application/json', Accept: 'text/event-stream', ...(last === null ? {} : { 'Last-Event-ID': String(last) }) }) }));
      lost(false);
      for await (const event of events(response)) {
        if (last !== null && event.id <= last) continue;
        last = event.id;
        tries = 0;
        yield event;
        whole = event.name === 'answer' || event.name === 'error';
      }
      if (whole) return;
    } catch (error) {
      if (whole) return;
      if (error instanceof Problem || tries >= TRIES || last === null) throw error;
    }
    if (last === null || tries >= TRIES) throw new TypeError('no answer');
    lost(true);
    await pause(Math.min(250 * 2 ** tries, 4000));
  }
}
