// What lies behind a sentence: a span in its report, a passage on its page, a value with its course, a rule with its inputs.
import { html, useEffect, useRef, useState } from '/web/vendor/ui.js';
import { Button, Icon, Picture, guarded, readable } from '/web/lib/common.js';
import { ICONS, beside, open } from '/web/lib/evidence.js';
import { propose } from '/web/lib/case.js';
import { drawer } from '/web/lib/store.js';
import { quantity, t } from '/web/lib/words.js';
import { Curve, WorksheetSheet } from '/web/parts/course.js';
import { Check, DraftSheet } from '/web/parts/reporting.js';
import { Sending } from '/web/parts/sending.js';

const Rows = ({ rows }) => html`<dl>${rows.filter(([, v]) => v !== null && v !== undefined && v !== '').map(([name, value]) => html`<dt key=${name}>${name}</dt><dd>${value}</dd>`)}</dl>`;

// A text with a span marked; what a reader selects in it can be asked about.
function Marked({ text, start, end, inner }) {
  const box = useRef(null);
  const [picked, setPicked] = useState('');
  useEffect(() => { box.current.querySelector('mark')?.scrollIntoView({ block: 'center' }); }, [text, start, end]);
  const onSelect = () => { const found = getSelection(); setPicked(found && box.current.contains(found.anchorNode) ? found.toString().trim() : ''); };
  const mark = inner ? html`<mark>${text.slice(start, start + inner[0])}<strong>${text.slice(start + inner[0], start + inner[1])}</strong>${text.slice(start + inner[1], end)}</mark>` : html`<mark>${text.slice(start, end)}</mark>`;
  return html`<pre ref=${box} tabindex="0" class="paper" onMouseUp=${onSelect} onKeyUp=${onSelect}>${text.slice(0, start)}${end > start && mark}${text.slice(end)}</pre>
    ${picked && html`<${Button} icon="message-circle" class="button primary" text=${t('check_this')} label=${t('check_this')} onClick=${() => propose(t('check_question', { text: picked.slice(0, 300) }))} />`}`;
}

// A laboratory value's course: the line, its points and their dates.
function Course({ rows }) {
  const points = rows.filter((r) => typeof r.value === 'number' && r.date).map((r) => ({ at: Date.parse(r.date), ...r })).sort((a, b) => a.at - b.at);
  if (points.length < 2) return null;
  const [low, high] = [Math.min(...points.map((p) => p.value)), Math.max(...points.map((p) => p.value))];
  const [first, last] = [points[0].at, points.at(-1).at];
  const [wide, tall, edge] = [320, 90, 12];
  const x = (p) => edge + ((p.at - first) / (last - first || 1)) * (wide - 2 * edge);
  const y = (p) => tall - edge - ((p.value - low) / (high - low || 1)) * (tall - 2 * edge);
  return html`<figure class="course"><svg viewBox="0 0 ${wide} ${tall}" role="img" aria-label=${t('course')}>
    <polyline points=${points.map((p) => `${x(p)},${y(p)}`).join(' ')} />${points.map((p) => html`<circle key=${p.at} cx=${x(p)} cy=${y(p)} r="3.5"><title>${p.date}: ${quantity(p.value, p.unit)}</title></circle>`)}</svg>
    <figcaption><span>${points[0].date.slice(0, 10)}</span><span>${quantity(low, points[0].unit)} – ${quantity(high, points[0].unit)}</span><span>${points.at(-1).date.slice(0, 10)}</span></figcaption></figure>`;
}

function Rule({ rule }) {
  return html`<table><tbody>
    ${Object.entries(rule.inputs).map(([name, value]) => {
      const origin = rule.origins?.[name] ?? {};
      const unit = rule.facts[name]?.unit;
      const shown = Array.isArray(value) ? value.join(', ') : typeof value === 'boolean' ? t(value ? 'yes' : 'no') : value;
      return html`<tr key=${name}><th scope="row">${readable(name)}</th><td>${quantity(shown, unit)}</td>
        <td>${origin.href ? html`<button type="button" class="origin" onClick=${guarded(() => open({ href: origin.href }))}>${origin.statement}</button>` : t(`origins.${origin.kind}`) ?? ''}</td></tr>`;
    })}
    ${rule.missing.map((name) => html`<tr key=${name} class="lacking"><th scope="row">${readable(name)}</th><td>${t('missing').toLowerCase()}</td><td>${rule.would_change?.[name] ?? ''}</td></tr>`)}
  </tbody></table>`;
}

function Passage({ opened }) {
  const { passage, page } = opened;
  const [shown, setShown] = useState(false);
  if (!passage) return html`<p>${opened.note}</p>`;
  return html`<${Rows} rows=${[[t('passage.document'), passage.document], [t('passage.organisation'), passage.organisation],
      [t('passage.version'), passage.status === 'superseded' ? `${passage.version} (${t('superseded')})` : passage.version], [t('passage.date'), passage.date], [t('passage.section'), passage.section],
      [t('passage.page'), passage.page], [t('passage.strength'), passage.strength], [t('passage.source'), passage.source], [t('passage.facts'), opened.checked]]} />
    ${opened.picture && html`<${Button} icon="image" class="button" text=${t('show_page', { page: passage.page })} label=${t('show_page', { page: passage.page })} aria-expanded=${shown} onClick=${() => setShown(!shown)} />
      ${shown && html`<${Picture} path=${opened.picture} alt=${t('show_page', { page: passage.page })} class="page-picture" />`}`}
    ${page ? html`<${Marked} text=${page.text} start=${page.start} end=${page.end} inner=${opened.sentence} />` : html`<p>${passage.text}</p>`}`;
}

function Evidence({ full }) {
  const { opened, source } = full;
  return html`<article class="evidence kind-${full.kind}"><h3><${Icon} name=${ICONS[full.kind]} /> [${full.id}] ${full.title}</h3>
    <p>${full.statement}</p>
    ${opened.png && html`<${Rows} rows=${[[t('series'), opened.title], [t('slice_number'), opened.frame + 1], [t('made_by'), `${source.model} ${source.model_version}`],
      full.interval && [t('interval'), `${quantity(full.interval[0], '')} – ${quantity(full.interval[1], full.unit)}`]].filter(Boolean)} />`}
    ${opened.beside?.length > 0 && html`<div class="row" aria-label=${t('side_by_side')}><span class="quiet">${t('side_by_side')}</span>${opened.beside.map((one, k) => html`<${Button} key=${k} icon="columns-2" class="button" text=${one.title} label="${t('side_by_side')}: ${one.title}" onClick=${guarded(() => beside(one))} />`)}</div>`}
    ${full.course && html`<${Curve} course=${full.course} />`}
    ${full.value?.worksheet && html`<${Button} icon="list-checks" class="button" text=${t('open.worksheet')} label=${t('open.worksheet')} onClick=${() => { drawer.value = { kind: 'worksheet', id: full.value.worksheet, back: drawer.value }; }} />`}
    ${opened.note && html`<p>${opened.note}</p>`}
    ${full.value?.probabilities && html`<ul class="bars">${Object.entries(full.value.probabilities).sort((a, b) => b[1] - a[1]).map(([name, p]) => html`<li key=${name}><span>${readable(name)}</span>
      <meter min="0" max="1" value=${p} aria-label=${readable(name)}></meter><span>${Math.round(100 * p)} %</span></li>`)}</ul>`}
    ${opened.report && html`<${Marked} text=${opened.report.text} start=${source.start} end=${source.end} />`}
    ${'passage' in opened && html`<${Passage} opened=${opened} />`}
    ${opened.rule && html`<${Rows} rows=${[[t('rule'), `${opened.rule.title}, ${opened.rule.version}`], [t('cited'), `${opened.rule.document}: ${opened.rule.section}`]]} /><${Rule} rule=${opened.rule} />`}
    ${'record' in opened && html`<${Course} rows=${opened.history} /><${Rows} rows=${[...opened.history.map((h) => [h.date ?? t('undated'), typeof h.value === 'number' ? quantity(h.value, h.unit) : `${h.value ?? h.name} ${h.unit ?? ''}`]), [t('path'), `${source.resource}.${source.path}`]]} />`}
  </article>`;
}

export function Drawer() {
  const shown = drawer.value;
  if (!shown) return html`<section id="drawer" class="drawer empty" aria-label=${t('evidence')}><p class="quiet">${t('drawer_empty')}</p></section>`;
  return html`<section id="drawer" class="drawer ${shown.kind}" aria-label=${t('evidence')} aria-live="polite" tabindex="-1">
    <div class="drawer-bar">${shown.back && html`<${Button} icon="arrow-left" text=${t('back')} label=${t('back')} class="button" onClick=${() => { drawer.value = shown.back; }} />`}
      <span class="grow"></span><${Button} icon="x" label=${t('close')} class="button tool" onClick=${() => { drawer.value = null; }} /></div>
    ${shown.kind === 'evidence' && html`<${Evidence} full=${shown.full} key=${shown.full.href} />`}
    ${shown.kind === 'report' && html`<article><h3>${shown.report.title}</h3><${Marked} text=${shown.report.text} start=${0} end=${0} /></article>`}
    ${shown.kind === 'draft' && html`<${DraftSheet} id=${shown.id} key=${shown.id} />`}
    ${shown.kind === 'sending' && html`<article><h3>${shown.title}</h3><${Sending} kind="mask" what=${shown.what} key=${shown.title} /></article>`}
    ${shown.kind === 'worksheet' && html`<${WorksheetSheet} id=${shown.id} key=${shown.id} />`}
    ${shown.kind === 'check' && html`<${Check} id=${shown.id} key=${shown.id} />`}
  </section>`;
}
