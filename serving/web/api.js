// Talks to the server. The key comes in the link's fragment, which no server or log sees, and stays in this tab.
const STORE = 'consilium.key';
const fromLink = new URLSearchParams(location.hash.slice(1)).get('key');
if (fromLink) { sessionStorage.setItem(STORE, fromLink); history.replaceState(null, '', location.pathname); }
const headers = () => { const key = sessionStorage.getItem(STORE); return key ? { Authorization: `Bearer ${key}` } : {}; };

export class Problem extends Error {
  constructor(body, status) { super([body.detail, body.hint].filter(Boolean).join(' — ') || `HTTP ${status}`); this.status = status; }
}

async function checked(response) {
  if (response.ok) return response;
  throw new Problem(await response.json().catch(() => ({})), response.status);
}

export const get = async (path) => (await checked(await fetch(path, { headers: headers() }))).json();
export const blob = async (path) => (await checked(await fetch(path, { headers: headers() }))).blob();
export const post = async (path, body) => (await checked(await fetch(path, {
  method: 'POST', headers: { ...headers(), 'Content-Type': 'application/json' }, body: JSON.stringify(body) }))).json();
export const put = async (path, body) => (await checked(await fetch(path, {
  method: 'PUT', headers: { ...headers(), 'Content-Type': 'application/json' }, body: JSON.stringify(body) }))).json();
export const patch = async (path, body) => (await checked(await fetch(path, {
  method: 'PATCH', headers: { ...headers(), 'Content-Type': 'application/json' }, body: JSON.stringify(body) }))).json();
export const remove = async (path) => checked(await fetch(path, { method: 'DELETE', headers: headers() }));
export const upload = async (files, patient) => {
  const form = new FormData();
  for (const file of files) form.append('files', file, file.name);
  if (patient) form.append('patient_id', patient);
  return (await checked(await fetch('/v1/studies', { method: 'POST', headers: headers(), body: form }))).json();
};

// Server-sent events over POST: yields {name, data}.
export async function* stream(path, body) {
  const response = await checked(await fetch(path, { method: 'POST',
    headers: { ...headers(), 'Content-Type': 'application/json', Accept: 'text/event-stream' }, body: JSON.stringify(body) }));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value.replaceAll('\r\n', '\n');
    for (let end = buffer.indexOf('\n\n'); end >= 0; end = buffer.indexOf('\n\n')) {
      const lines = buffer.slice(0, end).split('\n');
      buffer = buffer.slice(end + 2);
      const name = lines.find((l) => l.startsWith('event:'))?.slice(6).trim();
      const data = lines.filter((l) => l.startsWith('data:')).map((l) => l.slice(5)).join('\n');
      if (name && data) yield { name, data: JSON.parse(data) };
    }
  }
}
