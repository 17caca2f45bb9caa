// Frames and masks of series as typed arrays, fetched in runs and kept up to a bound.
import { get, raw } from '/web/lib/api.js';

const RUN = 8;
const BOUND = 320 * 2 ** 20;
const kept = new Map();
const coming = new Map();
let bytes = 0;

const keep = (key, data) => {
  kept.set(key, data);
  bytes += data.byteLength;
  for (const [old, value] of kept) {
    if (bytes <= BOUND) break;
    kept.delete(old);
    bytes -= value.byteLength;
  }
};

const base = (study, series) => `/v1/studies/${study}/series/${encodeURIComponent(series)}`;
export const display = (study, series) => get(`${base(study, series)}/display`);

// What is there at once, or undefined.
export const now = (key, n) => {
  const name = `${key}#${n}`;
  const found = kept.get(name);
  if (found) { kept.delete(name); kept.set(name, found); }
  return found;
};

function fetched(key, path, shown, first, count, make, size) {
  const name = `${key}@${first}`;
  if (!coming.has(name)) {
    coming.set(name, raw(`${path}?first=${first}&count=${count}`).then((r) => r.arrayBuffer()).then((buffer) => {
      for (let k = 0; k * size < buffer.byteLength; k += 1) keep(`${key}#${first + k}`, make(buffer.slice(k * size, (k + 1) * size)));
    }).finally(() => coming.delete(name)));
  }
  return coming.get(name);
}

async function load(key, path, shown, n, make, size) {
  if (now(key, n)) return now(key, n);
  await (coming.get(`${key}@${Math.floor(n / RUN) * RUN}`) ?? fetched(key, path, shown, n, 1, make, size));
  return now(key, n);
}

// Once what was waited for is drawn.
const afterwards = (work) => requestAnimationFrame(() => setTimeout(work));

// The runs of frames that a reader comes to next: where they are, more of them the way that they go, one of them back.
const lastAt = new Map();
function ahead(key, path, shown, n, make, size) {
  const way = n < (lastAt.get(key) ?? 0) ? -RUN : RUN;
  lastAt.set(key, n);
  for (const k of [n, n + way, n + 2 * way, n + 3 * way, n - way]) {
    const first = Math.floor(k / RUN) * RUN;
    const rest = Array.from({ length: Math.min(RUN, shown.frames - first) }, (_, j) => first + j);
    if (first >= 0 && rest.some((f) => !kept.has(`${key}#${f}`))) fetched(key, path, shown, first, RUN, make, size).catch(() => {});
  }
}

const pixels = (shown) => shown.columns * shown.rows;
const asValues = (shown) => (shown.colour ? [(b) => new Uint8Array(b), 3 * pixels(shown)] : [(b) => new Int16Array(b), 2 * pixels(shown)]);

export const frameKey = (pane) => `${pane.study.id}/${pane.series.id}`;
export async function frame(pane, n) {
  const [make, size] = asValues(pane.shown);
  const path = `${base(pane.study.id, pane.series.id)}/frames.bin`;
  const found = await load(frameKey(pane), path, pane.shown, n, make, size);
  afterwards(() => ahead(frameKey(pane), path, pane.shown, n, make, size));
  return found;
}

export const maskKey = (pane, name) => `${frameKey(pane)}/${name}`;
export async function mask(pane, name, n) {
  const path = `${base(pane.study.id, pane.series.id)}/masks/${encodeURIComponent(name)}/frames.bin`;
  const make = (b) => new Uint8Array(b);
  const found = await load(maskKey(pane, name), path, pane.shown, n, make, pixels(pane.shown));
  afterwards(() => ahead(maskKey(pane, name), path, pane.shown, n, make, pixels(pane.shown)));
  return found;
}
