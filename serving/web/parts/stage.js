// The viewer's stage: stacks on canvases, with the tools around them.
import { html, useEffect, useLayoutEffect, useRef, useState } from '/web/vendor/ui.js';
import { Button, Icon, Picture, guarded } from '/web/lib/common.js';
import { draw, labelAt, probe } from '/web/lib/draw.js';
import { frame, mask } from '/web/lib/frames.js';
import { open } from '/web/lib/evidence.js';
import { drawer, folded, may, pane as tab, place, theme, turns } from '/web/lib/store.js';
import { active, change, compare, fit, geometry, go, here, layout, linked, opacity, panes, play, playing, preset, PRESETS, show, step, tool, usable, windowOf } from '/web/lib/viewer.js';
import { quantity, t } from '/web/lib/words.js';
import { Solid } from '/web/parts/solid.js';

const named = (series) => `${series.handle} ${series.sequence ?? series.description} (${series.modality})`;
export const title = (pane) => [pane.study.handle, pane.study.date ?? t('undated'), pane.series.sequence || pane.series.description].filter(Boolean).join(' · ');

function Stack({ n }) {
  const canvas = useRef(null);
  const ticket = useRef(0);
  const [under, setUnder] = useState(null);
  const pane = panes.value[n];
  opacity.value; // a change of it is drawn
  const spot = place.value?.pane === n && place.value.series === pane?.series.handle ? { frame: place.value.point[2], point: place.value.point.slice(0, 2) } : null;

  const paint = () => {
    const box = canvas.current;
    const current = panes.value[n];
    if (!box || !current) return;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const [wide, high] = [Math.round(box.clientWidth * ratio), Math.round(box.clientHeight * ratio)];
    if (!wide || !high) return;
    if (box.width !== wide || box.height !== high) { box.width = wide; box.height = high; }
    const look = { opacity: opacity.value, accent: getComputedStyle(document.documentElement).getPropertyValue('--mark').trim(), spot, ratio: ratio * (Number.parseFloat(getComputedStyle(document.body).fontSize) / 14) };
    ticket.current += 1;
    const mine = ticket.current;
    const done = draw(box, current, look);
    box.dataset.frame = done ? current.frame : box.dataset.frame ?? '';
    const needed = current.masks.filter((m) => m.on).map((m) => mask(current, m.name, current.frame));
    Promise.all([frame(current, current.frame), ...needed]).then(() => {
      if (mine !== ticket.current) return;
      draw(box, current, look);
      box.dataset.frame = current.frame;
    }).catch(guarded((error) => { throw error; }));
  };
  useLayoutEffect(paint); // at once: the browser shows it with its next frame
  useEffect(() => {
    const watch = new ResizeObserver(paint);
    watch.observe(canvas.current);
    return () => watch.disconnect();
  }, [Boolean(pane)]);
  useEffect(() => {
    const box = canvas.current;
    const onWheel = (event) => {
      event.preventDefault();
      const current = panes.value[n];
      if (!current) return;
      active.value = n;
      if (event.ctrlKey || event.metaKey) change(n, { zoom: Math.max(0.5, Math.min(20, current.zoom * Math.exp(-event.deltaY / 300))) });
      else go(n, current.frame + Math.sign(event.deltaY));
    };
    box.addEventListener('wheel', onWheel, { passive: false });
    return () => box.removeEventListener('wheel', onWheel);
  }, []);

  const at = (event) => {
    const box = canvas.current;
    const ratio = box.width / box.clientWidth;
    const bounds = box.getBoundingClientRect();
    return geometry(panes.value[n], box.width, box.height).back((event.clientX - bounds.left) * ratio, (event.clientY - bounds.top) * ratio);
  };
  const onDown = (event) => {
    const start = panes.value[n];
    if (!start) return;
    active.value = n;
    const box = canvas.current;
    box.setPointerCapture(event.pointerId);
    const [x0, y0] = [event.clientX, event.clientY];
    const how = event.button === 1 || event.shiftKey ? 'pan' : event.button === 2 ? 'window' : tool.value;
    const [centre, width] = windowOf(start);
    const span = Math.max(start.shown.window[1], 1);
    let moved = false;
    const move = (now) => {
      const [dx, dy] = [now.clientX - x0, now.clientY - y0];
      if (Math.hypot(dx, dy) > 4) moved = true;
      if (!moved) return;
      if (how === 'window' && !start.shown.colour) change(n, { preset: 'own', window: [centre + (dy / 300) * span, Math.max(span / 500, width * Math.exp(dx / 250))] });
      else if (how === 'pan') change(n, { pan: [start.pan[0] + dx / box.clientWidth, start.pan[1] + dy / box.clientHeight] });
      else if (how === 'zoom') change(n, { zoom: Math.max(0.5, Math.min(20, start.zoom * Math.exp(-dy / 150))) });
      else if (how === 'point' && start.shown.frames > 1) go(n, start.frame + Math.round(dy / 6));
    };
    const up = (now) => {
      box.removeEventListener('pointermove', move);
      box.removeEventListener('pointerup', up);
      if (!moved && how === 'point' && event.button === 0) {
        const current = panes.value[n];
        const [x, y] = at(now);
        if (x > -0.5 && y > -0.5 && x < current.shown.columns - 0.5 && y < current.shown.rows - 0.5) {
          place.value = { pane: n, series: current.series.handle, point: [Math.round(x), Math.round(y), current.frame], region: labelAt(current, [x, y]) !== null };
        }
      }
    };
    box.addEventListener('pointermove', move);
    box.addEventListener('pointerup', up);
  };
  const onMove = (event) => { const current = panes.value[n]; if (current && event.buttons === 0) { const point = at(event); const value = probe(current, point); setUnder(value === null ? null : { point: point.map(Math.round), value }); } };
  const onKey = (event) => {
    const moves = { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10 };
    if (event.key in moves) { event.preventDefault(); go(n, panes.value[n].frame + moves[event.key]); }
    else if (event.key === 'Home' || event.key === 'End') { event.preventDefault(); go(n, event.key === 'Home' ? 0 : Infinity); }
    else if (event.key === '+' || event.key === '=') change(n, (p) => ({ zoom: Math.min(20, p.zoom * 1.2) }));
    else if (event.key === '-') change(n, (p) => ({ zoom: Math.max(0.5, p.zoom / 1.2) }));
    else if (event.key === '0') fit(n);
    else if (event.key === ' ') { event.preventDefault(); play(); }
  };
  const [centre, width] = pane ? windowOf(pane) : [0, 0];
  const sides = pane?.shown.sides;
  return html`<div class="stack ${active.value === n && layout.value === 'two' ? 'chosen' : ''}" onPointerDown=${() => { active.value = n; }}>
    <canvas ref=${canvas} id=${n ? 'canvas-2' : 'canvas'} class="tool-${tool.value}" tabindex="0" role="img" hidden=${!pane}
      aria-label=${pane ? `${title(pane)}, ${t('slice')} ${pane.frame + 1} / ${pane.shown.frames}` : t('no_image')}
      onPointerDown=${onDown} onPointerMove=${onMove} onPointerLeave=${() => setUnder(null)} onContextMenu=${(e) => e.preventDefault()} onKeyDown=${onKey}></canvas>
    ${pane ? html`<div class="corner top left"><span>${title(pane)}</span></div>
      <div class="corner top right"><output id=${n ? 'where-2' : 'where'}>${pane.frame + 1} / ${pane.shown.frames}</output></div>
      <div class="corner bottom left">${!pane.shown.colour && html`<span>W ${Math.round(width)} L ${Math.round(centre)}</span>`}
        ${under && html`<span>${under.point.join(', ')}: ${quantity(Math.round(under.value * 10) / 10, pane.shown.unit)}</span>`}
        ${!pane.shown.pixel_mm && html`<span class="caution-text">${t('no_scale')}</span>`}</div>
      ${sides && sides.map((s, k) => html`<span class="side side-${['left', 'right', 'top', 'bottom'][k]}" key=${k}>${s}</span>`)}
      ${pane.shown.frames > 1 && html`<input class="slider" type="range" min="0" max=${pane.shown.frames - 1} value=${pane.frame} aria-label=${t('slice_number')} onInput=${(e) => go(n, Number(e.target.value))} />`}`
      : html`<p class="nothing">${n ? t('no_second') : t(may('add_files') ? 'no_image' : 'no_image_here')}</p>`}
  </div>`;
}

function Masks({ n }) {
  const pane = panes.value[n];
  if (!pane?.masks.length) return null;
  return html`<details class="menu"><summary class="button" title=${t('masks')} aria-label=${t('masks')}><${Icon} name="layers" /></summary><div class="sheet">
    ${pane.masks.map((m) => html`<label key=${m.name}><input type="checkbox" checked=${m.on}
      onChange=${() => change(n, (p) => ({ masks: p.masks.map((o) => (o.name === m.name ? { ...o, on: !o.on } : o)) }))} /> ${m.name.replace('.nii.gz', '').replaceAll('_', ' ')}</label>`)}
    ${pane.study.source.format === 'DICOM' && pane.masks.map((m) => html`<${Button} key=${m.name} icon="upload" text="${t('sending.title')}: ${m.name.replace('.nii.gz', '').replaceAll('_', ' ')}" label=${t('sending.title')} class="button"
      onClick=${() => { drawer.value = { kind: 'sending', title: m.name.replace('.nii.gz', '').replaceAll('_', ' '), what: { study_id: pane.study.id, series_id: pane.series.id, name: m.name } }; folded.value = { ...folded.value, drawer: false }; }} />`)}
    <label>${t('opacity')} <input type="range" min="0" max="100" value=${opacity.value * 100} onInput=${(e) => { opacity.value = e.target.value / 100; }} /></label>
  </div></details>`;
}

const TOOLS = [['point', 'crosshair'], ['window', 'contrast'], ['zoom', 'zoom-in'], ['pan', 'move']];
const LAYOUTS = [['one', 'square'], ['two', 'columns-2'], ['planes', 'grid-2x2'], ['solid', 'box']];

export function Toolbar() {
  const n = active.value;
  const pane = panes.value[n];
  const study = pane?.study;
  const flat = ['one', 'two'].includes(layout.value);
  return html`<div class="toolbar" role="toolbar" aria-label=${t('viewer_tools')}>
    <select id="series" aria-label=${t('series')} disabled=${!pane} value=${pane?.series.id} onChange=${guarded((e) => show(study.id, e.target.value))}>
      ${study && usable(study).map((s) => html`<option key=${s.id} value=${s.id}>${named(s)}</option>`)}</select>
    <div class="group" role="group" aria-label=${t('layout')}>${LAYOUTS.map(([name, icon]) => html`<${Button} key=${name} icon=${icon} label=${t(`layouts.${name}`)} class="button tool" disabled=${!pane}
      aria-pressed=${layout.value === name} onClick=${guarded(async () => { if (name === 'two') { if (layout.value !== 'two') await compare(); } else layout.value = name; })} />`)}</div>
    <${Button} icon="maximize" label=${t('fit')} class="button tool" disabled=${!pane} onClick=${() => fit()} />
    ${flat && html`<div class="group" role="group" aria-label=${t('drag')}>${TOOLS.map(([name, icon]) => html`<${Button} key=${name} icon=${icon} label=${t(`tools_of_viewer.${name}`)} class="button tool"
      aria-pressed=${tool.value === name} onClick=${() => { tool.value = name; }} />`)}</div>
    ${pane?.shown.frames > 1 && html`<${Button} icon=${playing.value ? 'pause' : 'play'} label=${t(playing.value ? 'pause' : 'play')} class="button tool" onClick=${play} />`}
    ${pane && !pane.shown.colour && html`<select aria-label=${t('window')} value=${pane.preset} onChange=${(e) => preset(e.target.value)}>
      <option value="auto">${t('windows.auto')}</option>${pane.preset === 'own' && html`<option value="own">${t('windows.own')}</option>`}
      ${pane.shown.unit === 'HU' && Object.keys(PRESETS).map((name) => html`<option key=${name} value=${name}>${t(`windows.${name}`)}</option>`)}</select>`}
    <${Masks} n=${n} /><${KeyImages} />
    ${layout.value === 'two' && html`<${Button} icon=${linked.value ? 'link' : 'unlink'} label=${t('linked')} class="button tool" aria-pressed=${linked.value} onClick=${() => { linked.value = !linked.value; }} />`}`}
  </div>`;
}

// The slices that the conversation's image evidence stands on, as pictures to go to.
function KeyImages() {
  const seen = new Map();
  for (const turn of turns.value) for (const e of turn.answer?.evidence ?? []) if (['finding', 'measurement'].includes(e.kind) && e.source.frame !== null && e.source.frame !== undefined) {
    const key = `${e.source.series_uid}#${e.source.frame}`;
    seen.set(key, [...(seen.get(key) ?? []), e]);
  }
  const [looked, setLooked] = useState(false);
  if (!seen.size) return null;
  return html`<details class="menu" onToggle=${(event) => setLooked(event.target.open)}><summary class="button" title=${t('key_images')} aria-label="${t('key_images')}: ${seen.size}"><${Icon} name="images" /><span>${seen.size}</span></summary><div class="sheet keys">
    ${looked && [...seen].slice(0, 24).map(([key, all]) => { const { study_id: study, series_uid: uid, frame: n, mask: name } = all[0].source;
      return html`<button key=${key} type="button" class="entry" onClick=${guarded(() => open(all[0]))}><${Picture} path=${`/v1/studies/${study}/series/${encodeURIComponent(uid)}/slices/${n}.png${name ? `?overlay=${encodeURIComponent(name.split('/').pop())}` : ''}`} alt=${all[0].title} class="key-image" />
        <span class="entry-text"><span>${all.map((e) => e.title).join(', ')}</span><span class="quiet">${t('slice_number')} ${n + 1}</span></span></button>`; })}</div></details>`;
}

function AskHere() {
  const spot = place.value;
  if (!spot || !panes.value[spot.pane]) return null;
  return html`<div class="ask-here" role="status"><span>${t(spot.region ? 'place_region' : 'place', { series: spot.series, slice: spot.point[2] + 1 })}</span>
    <${Button} icon="message-circle" text=${t('ask_about_this')} label=${t('ask_about_this')} class="button primary" onClick=${() => { tab.value = 'chat'; document.getElementById('question').focus(); }} />
    <${Button} icon="x" label=${t('close')} class="button tool" onClick=${() => { place.value = null; }} /></div>`;
}

export function Stage() {
  theme.value;
  return html`<div class="stage layout-${layout.value}">
    ${['one', 'two'].includes(layout.value) ? html`<${Stack} n=${layout.value === 'one' && panes.value[active.value] ? active.value : 0} key=${layout.value === 'one' ? 'only' : 'first'} />${layout.value === 'two' && html`<${Stack} n=${1} key="second" />`}`
      : html`<${Solid} pane=${here() ?? panes.value[0]} kind=${layout.value} />`}
    <${AskHere} />
  </div>`;
}
export { step };
