// The image: one frame of a series, with the outline, the ruler and the box of an evidence over it.
import { blob, get } from '/web/api.js';

const canvas = document.getElementById('canvas');
const picker = document.getElementById('series');
const slider = document.getElementById('slice');
const where = document.getElementById('where');
const overlay = document.getElementById('overlay');
const empty = document.getElementById('empty-view');
const frames = new Map();
let shown = null;

const path = (n) => {
  const mask = overlay.checked && shown.mask ? `?overlay=${encodeURIComponent(shown.mask)}` : '';
  return `/v1/studies/${shown.study.id}/series/${shown.series.id}/slices/${n}.png${mask}`;
};

async function bitmap(url) {
  if (!frames.has(url)) {
    if (frames.size > 200) frames.clear();
    frames.set(url, blob(url).then(createImageBitmap));
  }
  return frames.get(url);
}

async function draw() {
  if (!shown) return;
  const n = Number(slider.value);
  const url = path(n);
  where.textContent = `${n + 1} / ${shown.series.shape[2]}`;
  const image = await bitmap(url);
  if (!shown || url !== path(Number(slider.value))) return;
  const [dx, dy] = shown.series.spacing_mm ?? [1, 1];
  const zoom = Math.max(1, Math.round(960 / Math.max(image.width, image.height)));
  canvas.width = image.width * zoom;
  canvas.height = Math.round(image.height * zoom * (dy / dx));
  const pen = canvas.getContext('2d');
  pen.imageSmoothingEnabled = true;
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  if (n === shown.frame) marks(pen, zoom, zoom * (dy / dx));
  if (n + 1 < shown.series.shape[2]) bitmap(path(n + 1)).catch(() => {});
}

function marks(pen, sx, sy) {
  const at = ([x, y]) => [(x + 0.5) * sx, (y + 0.5) * sy];
  pen.lineWidth = Math.max(2, sx / 2);
  if (shown.line) {
    pen.strokeStyle = '#4db6c4';
    pen.beginPath(); pen.moveTo(...at(shown.line[0])); pen.lineTo(...at(shown.line[1])); pen.stroke();
  } else if (shown.box) {
    pen.strokeStyle = '#4db6c4'; pen.setLineDash([8, 6]);
    const [x0, y0] = at(shown.box.slice(0, 2)); const [x1, y1] = at(shown.box.slice(2));
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0); pen.setLineDash([]);
  }
}

function offer(study, series) {
  picker.replaceChildren(...study.series.filter((s) => s.shape.length === 3).map((s) => {
    const option = new Option(`${s.handle} ${s.sequence ?? s.description} (${s.modality})`, s.id, false, s.id === series.id);
    return option;
  }));
}

export async function open(studyId, seriesId, marked = {}) {
  const study = await get(`/v1/studies/${studyId}`);
  const usable = study.series.filter((s) => s.shape.length === 3);
  const series = usable.find((s) => s.id === seriesId || s.series_uid === seriesId) ?? usable.find((s) => s.sequence === 'FLAIR') ?? usable[0];
  if (!series) return;
  const masks = await get(`/v1/studies/${study.id}/series/${series.id}/masks`);
  const same = shown?.series.id === series.id;
  shown = { study, series, mask: marked.mask ?? masks[0], frame: marked.frame ?? null, box: marked.box, line: marked.line };
  offer(study, series);
  slider.max = series.shape[2] - 1;
  if (marked.frame != null) slider.value = marked.frame;
  else if (!same) slider.value = Math.floor(series.shape[2] / 2);
  empty.hidden = true;
  canvas.ariaLabel = `${study.handle} ${study.date ?? ''} ${series.sequence ?? series.description}, slice ${Number(slider.value) + 1}`;
  await draw();
}

export const step = (by) => { slider.value = Number(slider.value) + by; draw(); };
slider.addEventListener('input', draw);
overlay.addEventListener('change', draw);
picker.addEventListener('change', () => open(shown.study.id, picker.value));
canvas.addEventListener('wheel', (event) => { event.preventDefault(); step(Math.sign(event.deltaY)); }, { passive: false });
