// Draws one frame with its masks and marks on a canvas.
import { frameKey, maskKey, now } from '/web/lib/frames.js';
import { COLOURS, geometry, windowOf } from '/web/lib/viewer.js';

const table = new Uint32Array(65536);
let tableOf = '';

// Grey of each stored number: linear window (PS3.3 C.11.2.1.2).
function grey(pane) {
  const [centre, width] = windowOf(pane);
  const { slope, intercept, inverted } = pane.shown;
  const name = [centre, width, slope, intercept, inverted].join();
  if (name === tableOf) return table;
  tableOf = name;
  for (let stored = -32768; stored < 32768; stored += 1) {
    const share = Math.max(0, Math.min(1, (stored * slope + intercept - centre) / width + 0.5));
    const level = Math.round(255 * (inverted ? 1 - share : share));
    table[stored + 32768] = (255 << 24) | (level << 16) | (level << 8) | level;
  }
  return table;
}

const layer = (host, name, width, height) => {
  const made = host[name] ??= document.createElement('canvas');
  if (made.width !== width || made.height !== height) { made.width = width; made.height = height; host[`${name}Of`] = ''; }
  return made;
};

function base(host, pane, values) {
  const { columns, rows, colour } = pane.shown;
  const made = layer(host, 'picture', columns, rows);
  const name = `${frameKey(pane)}#${pane.frame}:${windowOf(pane)}`;
  if (host.pictureOf === name) return made;
  const pen = made.getContext('2d');
  const image = host.image?.width === columns && host.image.height === rows ? host.image : (host.image = pen.createImageData(columns, rows));
  const out = new Uint32Array(image.data.buffer);
  if (colour) for (let k = 0, j = 0; k < out.length; k += 1, j += 3) out[k] = (255 << 24) | (values[j + 2] << 16) | (values[j + 1] << 8) | values[j];
  else { const levels = grey(pane); for (let k = 0; k < out.length; k += 1) out[k] = levels[values[k] + 32768]; }
  pen.putImageData(image, 0, 0);
  host.pictureOf = name;
  return made;
}

function over(host, pane, opacity) {
  const { columns, rows } = pane.shown;
  const on = pane.masks.filter((m) => m.on);
  const parts = on.map((m) => now(maskKey(pane, m.name), pane.frame)).filter(Boolean);
  const made = layer(host, 'labels', columns, rows);
  const name = `${frameKey(pane)}#${pane.frame}:${opacity}:${on.map((m) => m.name)}:${parts.length}`;
  if (host.labelsOf === name) return made;
  const pen = made.getContext('2d');
  const image = pen.createImageData(columns, rows);
  const out = new Uint32Array(image.data.buffer);
  for (const labels of parts) {
    for (let y = 0; y < rows; y += 1) {
      for (let x = 0; x < columns; x += 1) {
        const k = y * columns + x;
        const label = labels[k];
        if (!label) continue;
        const edge = x === 0 || y === 0 || x === columns - 1 || y === rows - 1 || labels[k - 1] !== label || labels[k + 1] !== label || labels[k - columns] !== label || labels[k + columns] !== label;
        const [r, g, b] = COLOURS[(label - 1) % COLOURS.length];
        out[k] = (Math.round(255 * (edge ? 0.95 : opacity)) << 24) | (b << 16) | (g << 8) | r;
      }
    }
  }
  pen.putImageData(image, 0, 0);
  host.labelsOf = name;
  return made;
}

function line(pen, from, to, text, colour, ratio) {
  for (const [width, style] of [[5 * ratio, 'rgba(0,0,0,.7)'], [2 * ratio, colour]]) {
    pen.lineWidth = width;
    pen.strokeStyle = style;
    pen.beginPath();
    pen.moveTo(...from);
    pen.lineTo(...to);
    const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
    const long = Math.hypot(dx, dy) || 1;
    const [nx, ny] = [(-dy / long) * 6 * ratio, (dx / long) * 6 * ratio];
    for (const [x, y] of [from, to]) { pen.moveTo(x - nx, y - ny); pen.lineTo(x + nx, y + ny); }
    pen.stroke();
  }
  if (text) label(pen, text, Math.max(from[0], to[0]) + 8 * ratio, (from[1] + to[1]) / 2, colour, ratio);
}

function label(pen, text, x, y, colour, ratio) {
  pen.font = `600 ${13 * ratio}px system-ui, sans-serif`;
  pen.textBaseline = 'middle';
  const wide = pen.measureText(text).width;
  const left = Math.min(x, pen.canvas.width - wide - 8 * ratio);
  pen.fillStyle = 'rgba(0,0,0,.7)';
  pen.fillRect(left - 4 * ratio, y - 10 * ratio, wide + 8 * ratio, 20 * ratio);
  pen.fillStyle = colour;
  pen.fillText(text, left, y);
}

// Draws what is there; false while the frame is still on its way.
export function draw(canvas, pane, look) {
  const { opacity, accent, spot, ratio } = look; // ratio: canvas pixels for each of the layout's, larger where texts are
  const pen = canvas.getContext('2d');
  const values = now(frameKey(pane), pane.frame);
  if (!values) return false;
  const place = geometry(pane, canvas.width, canvas.height);
  pen.fillStyle = '#000';
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingEnabled = place.sx < 6 * ratio;
  pen.imageSmoothingQuality = 'low';
  const wide = pane.shown.columns * place.sx;
  const high = pane.shown.rows * place.sy;
  pen.drawImage(base(canvas, pane, values), place.left, place.top, wide, high);
  if (pane.masks.some((m) => m.on)) pen.drawImage(over(canvas, pane, opacity), place.left, place.top, wide, high);
  const marks = pane.marks;
  if (marks && marks.frame === pane.frame) {
    if (marks.line) line(pen, place.at(marks.line[0]), place.at(marks.line[1]), marks.label, accent, ratio);
    else if (marks.box) {
      const [x0, y0] = place.at([marks.box[0] - 0.5, marks.box[1] - 0.5]);
      const [x1, y1] = place.at([marks.box[2] + 0.5, marks.box[3] + 0.5]);
      pen.setLineDash([8 * ratio, 6 * ratio]);
      pen.lineWidth = 2 * ratio;
      pen.strokeStyle = accent;
      pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
      pen.setLineDash([]);
      if (marks.label) label(pen, marks.label, x1 + 8 * ratio, y0 + 10 * ratio, accent, ratio);
    }
  }
  if (spot && spot.frame === pane.frame) {
    const [x, y] = place.at(spot.point);
    const reach = 9 * ratio;
    for (const [width, style] of [[4 * ratio, 'rgba(0,0,0,.7)'], [1.5 * ratio, accent]]) {
      pen.lineWidth = width;
      pen.strokeStyle = style;
      pen.beginPath();
      for (const [a, b] of [[-1, 0], [1, 0], [0, -1], [0, 1]]) { pen.moveTo(x + a * 3 * ratio, y + b * 3 * ratio); pen.lineTo(x + a * reach, y + b * reach); }
      pen.stroke();
    }
  }
  scaleBar(pen, pane, place, ratio);
  return true;
}

// A bar of a round length in mm at the lower edge, where the pixels' size is known.
function scaleBar(pen, pane, place, ratio) {
  if (!pane.shown.pixel_mm) return;
  const most = pen.canvas.width * 0.22;
  const length = [200, 100, 50, 20, 10, 5, 2, 1].find((mm) => mm * place.scale <= most);
  if (!length) return;
  const wide = length * place.scale;
  const [x, y] = [pen.canvas.width - wide - 16 * ratio, pen.canvas.height - 16 * ratio];
  pen.strokeStyle = '#fff';
  pen.lineWidth = 2 * ratio;
  pen.beginPath();
  pen.moveTo(x, y - 4 * ratio); pen.lineTo(x, y); pen.lineTo(x + wide, y); pen.lineTo(x + wide, y - 4 * ratio);
  pen.stroke();
  pen.font = `${12 * ratio}px system-ui, sans-serif`;
  pen.fillStyle = '#fff';
  pen.textBaseline = 'alphabetic';
  const text = `${length} mm`;
  pen.fillText(text, x + wide - pen.measureText(text).width, y - 7 * ratio);
}

// The value under a point of the frame, with its unit; null in colour or outside.
export function probe(pane, point) {
  const values = now(frameKey(pane), pane.frame);
  const [x, y] = point.map(Math.round);
  if (!values || pane.shown.colour || x < 0 || y < 0 || x >= pane.shown.columns || y >= pane.shown.rows) return null;
  return values[y * pane.shown.columns + x] * pane.shown.slope + pane.shown.intercept;
}

export const labelAt = (pane, point) => {
  const [x, y] = point.map(Math.round);
  for (const m of pane.masks.filter((one) => one.on)) {
    const labels = now(maskKey(pane, m.name), pane.frame);
    if (labels?.[y * pane.shown.columns + x]) return m.name;
  }
  return null;
};
