// Lesions over time: a curve with its table, and the worksheet of a response that a reader can change.
import { html, useEffect, useState } from '/web/vendor/ui.js';
import { blob, get, patch } from '/web/lib/api.js';
import { Button, download, guarded, readable } from '/web/lib/common.js';
import { colour, plotted } from '/web/lib/curve.js';
import { drawer, pane } from '/web/lib/store.js';
import { quantity, t } from '/web/lib/words.js';

const [WIDE, TALL, EDGE] = [440, 210, { left: 40, right: 14, top: 12, bottom: 34 }];

export function Curve({ course, plain = false }) {
  const { x, y, ticks } = plotted(course, WIDE, TALL, EDGE);
  const points = course.lines[0].points;
  const runs = (line) => line.points.reduce((all, p, k) => { if (p.value === null) all.push([]); else all.at(-1).push([x(k), y(p.value)]); return all; }, [[]]).filter((r) => r.length);
  return html`<figure class="curve"><svg viewBox="0 0 ${WIDE} ${TALL}" role="img" aria-label="${t('course')}: ${course.quantity}">
    ${ticks.map((v) => html`<g key=${v}><line class="grid" x1=${EDGE.left} x2=${WIDE - EDGE.right} y1=${y(v)} y2=${y(v)} /><text x=${EDGE.left - 5} y=${y(v) + 4} text-anchor="end">${v}</text></g>`)}
    ${points.map((p, k) => html`<text key=${p.study} x=${x(k)} y=${TALL - 18} text-anchor=${k === 0 ? 'start' : k === points.length - 1 ? 'end' : 'middle'}>${p.study}${p.study === course.nadir ? ` · ${t('nadir')}` : ''}<tspan x=${x(k)} dy="14">${p.date}</tspan></text>`)}
    ${course.lines.map((line, n) => html`<g key=${line.name} stroke=${colour(n)} fill=${colour(n)}>
      ${runs(line).map((run, k) => html`<polyline key=${k} class=${line.name === 'sum' ? 'total' : ''} points=${run.map((p) => p.join(',')).join(' ')} />`)}
      ${line.points.map((p, k) => p.value !== null && html`<g key=${k}>${p.interval && html`<line x1=${x(k)} x2=${x(k)} y1=${y(p.interval[0])} y2=${y(p.interval[1])} />`}
        <circle cx=${x(k)} cy=${y(p.value)} r="3.5"><title>${line.name}, ${p.date}: ${quantity(p.value, course.unit)}</title></circle></g>`)}</g>`)}</svg>
    ${!plain && html`<table><caption>${readable(course.quantity)} (${course.unit})</caption><thead><tr><th scope="col"></th>${points.map((p) => html`<th scope="col" key=${p.study}>${p.study}<br />${p.date}</th>`)}</tr></thead>
      <tbody>${course.lines.map((line, n) => html`<tr key=${line.name}><th scope="row"><svg class="dot" viewBox="0 0 8 8" aria-hidden="true"><circle cx="4" cy="4" r="4" fill=${colour(n)} /></svg>${line.name === 'sum' ? t('sum') : line.name}</th>
        ${line.points.map((p, k) => html`<td key=${k}>${p.value === null ? '–' : p.value}${p.interval ? html` <small>${p.interval[0]}–${p.interval[1]}</small>` : ''}${p.note && html` <small>${t(`states.${p.note}`) ?? p.note}</small>`}</td>`)}</tr>`)}</tbody></table>`}</figure>`;
}

const ROLES = ['target', 'non_target', 'new', 'ignored'];
const CRITERIA = { recist_1_1: 'RECIST 1.1', irecist: 'iRECIST', rano_2_0: 'RANO 2.0', mrecist: 'mRECIST', lugano_2014_ct: 'Lugano CT' };
const sized = (s, unit) => (s.state !== 'measured' ? t(`states.${s.state}`) : unit === 'mL' ? `${s.volume_ml}` : unit === 'mm²' ? `${s.long_mm} × ${s.short_mm}` : `${s.long_mm} (${s.short_mm})`);

function Answers({ shown, study, send }) {
  const mine = shown.worksheet.answers[study] ?? {};
  return html`<details class="answers"><summary>${t('what_images_lack', { study })}</summary>${Object.entries(shown.asks).map(([name, ask]) => {
    const value = mine[name] ?? '';
    const set = (v) => send({ answers: { [study]: { [name]: v } } });
    return html`<label key=${name} title=${ask.meaning}><span>${readable(name)}</span>${ask.type === 'number' || ask.type === 'integer'
      ? html`<input type="number" min="0" value=${value} onChange=${(e) => set(e.target.value === '' ? null : Number(e.target.value))} />`
      : html`<select value=${String(value)} onChange=${(e) => set(e.target.value === '' ? null : ask.type === 'boolean' ? e.target.value === 'true' : e.target.value)}>
        <option value="">${t('not_stated')}</option>${(ask.values ?? ['true', 'false']).map((v) => html`<option key=${v} value=${v}>${ask.type === 'boolean' ? t(v === 'true' ? 'yes' : 'no') : readable(v)}</option>`)}</select>`}</label>`;
  })}</details>`;
}

export function WorksheetSheet({ id }) {
  const [shown, setShown] = useState(null);
  const [problem, setProblem] = useState('');
  useEffect(() => { guarded(async () => setShown(await get(`/v1/worksheets/${id}`)))(); }, [id]);
  if (!shown) return html`<p class="quiet">${t('loading')}</p>`;
  const sheet = shown.worksheet;
  const send = async (what) => { setProblem(''); try { setShown(await patch(`/v1/worksheets/${id}`, { version: sheet.version, ...what })); } catch (error) { setProblem([error.message, error.hint].filter(Boolean).join(' — ')); } };
  const newest = sheet.points.at(-1);
  const lines = [{ name: 'sum', points: sheet.points.map((p) => ({ study: p.study, date: p.date, value: p.total, note: '' })) }];
  return html`<article class="worksheet"><h3>${shown.title}</h3><p class="unsigned">${shown.banner}</p>
    <p class="verdict"><strong>${newest.category ?? t('no_category')}</strong> <span>${newest.study} · ${newest.date}</span></p><p>${newest.text}</p>
    ${shown.best && html`<p class="quiet">${t('best_response')}: ${shown.best}${shown.best_confirmed === shown.best ? ` (${t('confirmed')})` : ''}</p>`}
    ${newest.missing.length > 0 && html`<p class="quiet">${t('missing')}: ${newest.missing.map(readable).join(', ')}</p>`}
    <div class="row"><label>${t('criteria')} <select value=${sheet.criteria} onChange=${(e) => send({ criteria: e.target.value })}>${Object.entries(CRITERIA).map(([k, v]) => html`<option key=${k} value=${k}>${v}</option>`)}</select></label>
      <label>${t('baseline')} <select value=${sheet.baseline} onChange=${(e) => send({ baseline: e.target.value })}>${sheet.studies.slice(0, -1).map((s) => html`<option key=${s.handle} value=${s.handle}>${s.handle} · ${s.date}</option>`)}</select></label>
      ${sheet.criteria === 'rano_2_0' && html`<label>${t('measure_by')} <select value=${sheet.measure} onChange=${(e) => send({ measure: e.target.value })}><option value="diameters">${t('diameters')}</option><option value="volume">${t('volume')}</option></select></label>`}</div>
    ${sheet.points.some((p) => p.total !== null) && html`<${Curve} course=${{ quantity: t('sum_of_targets'), unit: shown.unit, lines, nadir: shown.nadir }} plain />`}
    <div class="wide" tabindex="0"><table class="lesions"><thead><tr><th scope="col">${t('lesion')}</th><th scope="col">${t('counts_as')}</th>${sheet.studies.map((s) => html`<th scope="col" key=${s.handle}>${s.handle}<br />${s.date}</th>`)}</tr></thead>
      <tbody>${sheet.lesions.map((l) => html`<tr key=${l.name} class=${l.role}><th scope="row">${l.name}<br /><small>${l.organ}${l.node ? '' : ''}</small></th>
        <td><select aria-label="${l.name}: ${t('counts_as')}" value=${l.role} onChange=${(e) => send({ roles: { [l.name]: e.target.value } })}>${ROLES.map((r) => html`<option key=${r} value=${r}>${t(`roles.${r}`)}</option>`)}</select><br /><small>${l.why}</small></td>
        ${l.sizes.map((s) => html`<td key=${s.study}>${sized(s, shown.unit)}${s.parts > 1 ? html` <small>${t('in_parts', { n: s.parts })}</small>` : ''}</td>`)}</tr>`)}</tbody>
      <tfoot><tr><th scope="row" colspan="2">${t('sum_of_targets')} (${shown.unit})</th>${sheet.points.map((p) => html`<td key=${p.study}>${p.total ?? '–'}</td>`)}</tr>
        <tr><th scope="row" colspan="2">${t('category')}</th>${sheet.points.map((p) => html`<td key=${p.study}><strong>${p.category ?? (p.study === sheet.baseline ? t('baseline') : '–')}</strong></td>`)}</tr></tfoot></table></div>
    ${sheet.notes.length > 0 && html`<ul class="notes">${sheet.notes.map((n) => html`<li key=${n}>${n}</li>`)}</ul>`}
    ${sheet.points.filter((p) => p.study !== sheet.baseline).map((p) => html`<${Answers} key=${p.study} shown=${shown} study=${p.study} send=${send} />`)}
    <p class="bad" role="alert">${problem}</p>
    <div class="row">${[['csv', 'CSV'], ['parquet', 'Parquet']].map(([form, text]) => html`<${Button} key=${form} icon="download" text=${text} label="${t('export')}: ${text}" class="button"
      onClick=${guarded(async () => download(await blob(`/v1/worksheets/${id}/export?form=${form}`), `worksheet.${form}`))} />`)}</div>
  </article>`;
}

export const openWorksheet = (id) => { drawer.value = { kind: 'worksheet', id }; pane.value = 'view'; };
