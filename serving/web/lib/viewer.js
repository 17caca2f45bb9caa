// What the viewer shows: one or two stacks, or planes and a solid view of one series.
import { signal } from '/web/vendor/ui.js';
import { get } from '/web/lib/api.js';
import { display } from '/web/lib/frames.js';
import { pane as tab, studies } from '/web/lib/store.js';

export const layout = signal('one');
export const panes = signal([null, null]);
export const active = signal(0);
export const linked = signal(true);
export const tool = signal('point');
export const opacity = signal(0.3);
export const drawn = signal(0);

// Centre and width in HU: OHIF 3.12.10's window presets for CT.
export const PRESETS = { brain: [40, 80], soft: [40, 400], lung: [-600, 1500], liver: [90, 150], bone: [480, 2500] };
// Label colours as the server draws them (knowledge/studies/render.py).
export const COLOURS = [[255, 176, 32], [86, 180, 233], [0, 158, 115], [240, 228, 66], [204, 121, 167], [213, 94, 0], [0, 114, 178], [200, 200, 200]];

const put = (n, change) => { panes.value = panes.value.map((p, k) => (k === n ? (p ? { ...p, ...change } : change) : p)); };
export const change = (n, what) => put(n, typeof what === 'function' ? what(panes.value[n]) : what);
export const here = () => panes.value[active.value];

const clamp = (n, pane) => Math.max(0, Math.min(pane.shown.frames - 1, n));
export function go(n, frame) {
  const pane = panes.value[n];
  if (!pane) return;
  const to = clamp(Math.round(frame), pane);
  const other = 1 - n;
  const by = to - pane.frame;
  put(n, { frame: to });
  const twin = panes.value[other];
  // Linked stacks move by the same way in millimetres, where both know how far apart their slices lie.
  if (layout.value === 'two' && linked.value && twin && by) {
    const ratio = pane.shown.slice_mm && twin.shown.slice_mm ? pane.shown.slice_mm / twin.shown.slice_mm : pane.shown.frames > 1 ? twin.shown.frames / pane.shown.frames : 1;
    const exact = (twin.exact ?? twin.frame) + by * ratio;
    put(other, { exact: Math.max(0, Math.min(twin.shown.frames - 1, exact)), frame: clamp(Math.round(exact), twin) });
  }
}
// Plays the stack as a film, by its own time between frames, or ten frames a second where the file has none.
export const playing = signal(false);
export function play() {
  playing.value = !playing.value && here()?.shown.frames > 1;
  let due = performance.now();
  const tick = (now) => {
    const pane = here();
    if (!playing.value || !pane || !['one', 'two'].includes(layout.value)) { playing.value = false; return; }
    const each = pane.shown.frame_ms ?? 100;
    const by = Math.floor((now - due) / each);
    if (by > 0) { due += by * each; go(active.value, (pane.frame + by) % pane.shown.frames); }
    requestAnimationFrame(tick);
  };
  if (playing.value) requestAnimationFrame(tick);
}
export const step = (by) => { const pane = here(); if (pane) go(active.value, pane.frame + by); };

const images = (study) => study.series.filter((s) => s.shape.length === 3 && !['SEG', 'RTSTRUCT'].includes(s.modality));
export const usable = images;

let asked = 0;
// Opens a series in the active stack; `marked` says which frame, mask, line and box an evidence has.
export async function show(studyId, seriesId, marked = null, where = active.value) {
  asked += 1;
  const mine = asked;
  const study = studies.value.find((s) => s.id === studyId) ?? await get(`/v1/studies/${studyId}`);
  const choices = images(study);
  const series = choices.find((s) => [s.id, s.series_uid, s.handle].includes(seriesId)) ?? choices.find((s) => s.sequence === 'FLAIR') ?? choices[0];
  if (!series) return;
  const shown = await display(study.id, series.id);
  if (mine !== asked && marked === null) return;
  const old = panes.value[where];
  const same = old?.series.id === series.id;
  const wantedMask = marked?.mask ?? shown.masks[0];
  put(where, {
    study, series, shown, marks: marked, exact: null,
    frame: Math.max(0, Math.min(shown.frames - 1, marked?.frame ?? (same ? old.frame : Math.floor(shown.frames / 2)))),
    masks: shown.masks.map((name) => ({ name, on: name === wantedMask })),
    window: same ? old.window : null, preset: same ? old.preset : 'auto', zoom: same ? old.zoom : 1, pan: same ? old.pan : [0, 0],
  });
  active.value = where;
  if (marked && !['one', 'two'].includes(layout.value)) layout.value = 'one';
  if (marked) tab.value = 'view';
}

export const windowOf = (pane) => pane.window ?? pane.shown.window;
export function preset(name, n = active.value) {
  const pane = panes.value[n];
  if (pane) put(n, { preset: name, window: PRESETS[name] ?? null });
}
export function nextPreset() {
  const pane = here();
  if (!pane) return;
  const names = ['auto', ...(pane.shown.unit === 'HU' ? Object.keys(PRESETS) : [])];
  preset(names[(names.indexOf(pane.preset) + 1) % names.length]);
}
export const fit = (n = active.value) => put(n, { zoom: 1, pan: [0, 0] });

export async function compare() {
  if (layout.value === 'two') { layout.value = 'one'; return; }
  layout.value = 'two';
  if (panes.value[1] || !panes.value[0]) return;
  const { study, series } = panes.value[0];
  const others = (await get(`/v1/studies?patient_id=${encodeURIComponent(study.patient_id)}`)).filter((s) => s.id !== study.id && images(s).length)
    .sort((a, b) => (a.date ?? '').localeCompare(b.date ?? ''));
  const before = others.findLast((s) => (s.date ?? '') <= (study.date ?? '')) ?? others[0];
  const match = before && (images(before).find((s) => s.sequence === series.sequence && s.modality === series.modality) ?? images(before)[0]);
  const twin = match ?? images(study).find((s) => s.id !== series.id);
  if (twin) await show((match ? before : study).id, twin.id, null, 1);
  active.value = 0;
}

// Fixed scale: what the canvas needs to go between its pixels and those of the frame.
export function geometry(pane, width, height) {
  const [dx, dy] = pane.shown.pixel_mm ?? [1, 1];
  const scale = Math.min(width / (pane.shown.columns * dx), height / (pane.shown.rows * dy)) * pane.zoom;
  const [sx, sy] = [scale * dx, scale * dy];
  const left = (width - pane.shown.columns * sx) / 2 + pane.pan[0] * width;
  const top = (height - pane.shown.rows * sy) / 2 + pane.pan[1] * height;
  return { sx, sy, left, top, scale, at: ([x, y]) => [left + (x + 0.5) * sx, top + (y + 0.5) * sy], back: (x, y) => [(x - left) / sx - 0.5, (y - top) / sy - 0.5] };
}
