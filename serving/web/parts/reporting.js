// A draft to edit, compare, save, sign and take along; a report that was checked.
import { html, useEffect, useState } from '/web/vendor/ui.js';
import { blob, get, post, put } from '/web/lib/api.js';
import { Button, Icon, download, guarded } from '/web/lib/common.js';
import { may } from '/web/lib/store.js';
import { t } from '/web/lib/words.js';
import { Chip } from '/web/parts/chip.js';
import { Sending } from '/web/parts/sending.js';

const PARTS = ['INDICATION', 'TECHNIQUE', 'COMPARISON', 'FINDINGS', 'IMPRESSION'];
const FORMS = { text: ['Text', 'txt'], pdf: ['PDF', 'pdf'], docx: ['DOCX', 'docx'], fhir: ['FHIR', 'json'], sr: ['DICOM SR', 'dcm'], dicom_pdf: ['DICOM PDF', 'dcm'] };
const kept = (rows) => rows.filter((r) => r.text.trim()).map((r) => ({ part: r.part, text: r.text.trim(), evidence: r.evidence }));

export function DraftSheet({ id }) {
  const [shown, setShown] = useState(null);
  const [rows, setRows] = useState([]);
  const [problem, setProblem] = useState('');
  const [name, setName] = useState('');
  const load = guarded(async () => { const found = await get(`/v1/drafts/${id}`); setShown(found); setRows(found.sentences.map((s, k) => ({ ...s, key: k, was: s.text }))); });
  useEffect(() => { load(); }, [id]);
  if (!shown) return html`<p class="quiet">${t('loading')}</p>`;
  const signed = shown.status === 'signed';
  const changed = JSON.stringify(kept(rows)) !== JSON.stringify(kept(shown.sentences));
  const trying = (work) => async () => { setProblem(''); try { await work(); } catch (error) { setProblem([error.message, error.hint].filter(Boolean).join(' — ')); } };
  const save = () => put(`/v1/drafts/${id}`, { version: shown.version, sentences: kept(rows) });
  const edit = (key, text) => setRows(rows.map((r) => (r.key === key ? { ...r, text, by: 'reader' } : r)));
  return html`<article class="draft"><h3>${shown.title}</h3><p class=${signed ? 'signed' : 'unsigned'}>${shown.banner}</p>
    ${PARTS.map((part) => html`<section key=${part}><h4>${part}</h4>
      ${rows.filter((r) => r.part === part).map((r) => html`<div key=${r.key} class="line ${r.by}"><span class="how">${t(`by.${r.by}`)}${r.was !== undefined && r.was !== r.text ? ` · ${t('changed')}` : ''}</span>
        <div class="row"><textarea readonly=${signed} rows=${Math.max(1, Math.ceil(r.text.length / 70))} aria-label="${part}: ${t(`by.${r.by}`)}" value=${r.text} onInput=${(e) => edit(r.key, e.target.value)}></textarea>
          ${!signed && html`<${Button} icon="x" label=${t('take_out')} class="button tool take" onClick=${() => setRows(rows.filter((o) => o.key !== r.key))} />`}</div>
        ${r.was !== undefined && r.was !== r.text && html`<p class="was"><del>${r.was}</del></p>`}
        <span class="chips">${r.evidence.map((e) => html`<${Chip} key=${e} evidence=${shown.evidence.find((x) => x.id === e)} />`)}</span>
        ${r.problems.map((p) => html`<p key=${p} class="bad">${t('not_carried')}: ${p}</p>`)}</div>`)}
      ${!signed && html`<${Button} icon="plus" text=${t('add_sentence')} label=${t('add_sentence')} class="button add" onClick=${() => setRows([...rows, { part, text: '', by: 'reader', evidence: [], problems: [], key: Math.random() }])} />`}
    </section>`)}
    ${!signed && html`<div class="row">
      <${Button} icon="save" text=${t('save')} label=${t('save')} class="button" disabled=${!changed} onClick=${trying(async () => { await save(); await load(); })} />
      ${may('sign') ? html`<input placeholder=${t('your_name')} aria-label=${t('your_name')} value=${name} onInput=${(e) => setName(e.target.value)} />` : html`<span class="quiet"><${Icon} name="lock" /> ${t('read_only')}</span>`}
      ${may('sign') && html`<${Button} icon="pen-line" text=${t('sign')} label=${t('sign')} class="button primary" onClick=${trying(async () => { const version = changed ? (await save()).version : shown.version; await post(`/v1/drafts/${id}/sign`, { name, version }); await load(); })} />`}</div>`}
    <p class="bad" role="alert">${problem}</p>
    <div class="row">${Object.entries(FORMS).map(([form, [text, ending]]) => html`<${Button} key=${form} icon="download" text=${text} label="${t('export')}: ${text}" class="button"
      onClick=${trying(async () => download(await blob(`/v1/drafts/${id}/export?form=${form}`), `${shown.status}-${shown.template}.${ending}`))} />`)}</div>
    ${signed && html`<${Sending} kind="report" what=${{ draft_id: id }} />`}
  </article>`;
}

export function Check({ id }) {
  const [shown, setShown] = useState(null);
  useEffect(() => { guarded(async () => setShown(await get(`/v1/checks/${id}`)))(); }, [id]);
  if (!shown) return html`<p class="quiet">${t('loading')}</p>`;
  // Issues come gravest first: where two overlap, the graver one is marked.
  const drawn = shown.issues.reduce((all, i) => (all.some((k) => i.start < k.end && k.start < i.end) ? all : [...all, i]), []).sort((a, b) => a.start - b.start);
  const parts = drawn.flatMap((issue, k) => [shown.text.slice(k ? drawn[k - 1].end : 0, issue.start), html`<mark class=${issue.severity} title=${issue.message}>${shown.text.slice(issue.start, issue.end)}</mark>`]);
  return html`<article class="check"><h3>${shown.title}</h3>
    ${shown.issues.length ? html`<ol class="issues">${shown.issues.map((issue, k) => html`<li key=${k} class=${issue.severity}><strong>${issue.kind} · ${t(`severity.${issue.severity}`)}</strong><p>${issue.message}</p>
      ${issue.suggestion && html`<p class="quiet">${t('suggested')}: ${issue.suggestion}</p>`}
      <span class="chips">${issue.evidence.map((e) => html`<${Chip} key=${e} evidence=${shown.evidence.find((x) => x.id === e)} />`)}</span></li>`)}</ol>` : html`<p>${t('no_issue')}</p>`}
    <pre class="paper" tabindex="0">${parts}${shown.text.slice(drawn.at(-1)?.end ?? 0)}</pre></article>`;
}
