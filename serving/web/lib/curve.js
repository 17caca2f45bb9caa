// A course over time as lines: where its points lie, and how far each may be off.
const COLOURS = ['var(--accent)', '#e69f00', '#56b4e9', '#009e73', '#cc79a7', '#d55e00', '#0072b2'];
export const colour = (n) => COLOURS[n % COLOURS.length];

export function plotted(course, wide, tall, edge) {
  const days = course.lines[0].points.map((p) => Date.parse(p.date));
  const [first, last] = [Math.min(...days), Math.max(...days)];
  const most = Math.max(...course.lines.flatMap((l) => l.points.flatMap((p) => [p.value ?? 0, p.interval?.[1] ?? 0]))) || 1;
  const x = (k) => edge.left + ((days[k] - first) / (last - first || 1)) * (wide - edge.left - edge.right);
  const y = (v) => tall - edge.bottom - (v / most) * (tall - edge.top - edge.bottom);
  const step = 10 ** Math.floor(Math.log10(most)) * (most / 10 ** Math.floor(Math.log10(most)) > 5 ? 2 : most / 10 ** Math.floor(Math.log10(most)) > 2 ? 1 : 0.5);
  const ticks = Array.from({ length: Math.floor(most / step) + 1 }, (_, k) => k * step);
  return { x, y, ticks, most };
}
