// The case: whose it is, what there is in time, what reports ask to be done, and where files are dropped.
import { html, useRef, useState } from '/web/vendor/ui.js';
import { get } from '/web/lib/api.js';
import { Button, Icon, guarded } from '/web/lib/common.js';
import { begin, choose, describe, madeUp, take } from '/web/lib/case.js';
import { drawer, folded, followUps, may, pane, patient, patients, studies, timeline, uploads } from '/web/lib/store.js';
import { active, layout, panes, show } from '/web/lib/viewer.js';
import { t } from '/web/lib/words.js';

const KIND = { study: 'scan', report: 'file-text', record: 'clipboard-list' };
const openReport = guarded(async (id) => { drawer.value = { kind: 'report', report: await get(`/v1/reports/${id}`) }; folded.value = { ...folded.value, drawer: false }; pane.value = 'view'; });

function Entry({ entry }) {
  const study = entry.kind === 'study' && studies.value.find((s) => s.id === entry.id);
  const current = panes.value.some((p, n) => p?.study.id === entry.id && (layout.value === 'two' || n === active.value));
  const drawable = study ? study.series.filter((s) => s.shape.length === 3) : [];
  const warned = study && study.series.some((s) => s.geometry === 'warning');
  const press = entry.kind === 'study' ? guarded(async () => { await show(entry.id); pane.value = 'view'; }) : entry.kind === 'report' ? () => openReport(entry.id) : null;
  const body = html`<${Icon} name=${KIND[entry.kind] ?? 'dot'} /><span class="entry-text"><time>${entry.date ?? t('undated')}</time><span>${entry.title}</span>
    ${study && html`<span class="quiet">${t('series_count', { n: drawable.length })}${warned ? ` · ${t('geometry_warning')}` : ''}</span>`}</span>`;
  return html`<li>${press ? html`<button type="button" class="entry" aria-current=${current} onClick=${press}>${body}</button>` : html`<div class="entry">${body}</div>`}
    ${study && studies.value.length > 1 && html`<${Button} icon="message-circle" label=${t('alone')} class="button tool" onClick=${guarded(async () => { await begin(study); pane.value = 'chat'; })} />`}
    ${study && layout.value === 'two' && html`<${Button} icon="columns-2" label=${t('beside')} class="button tool" onClick=${guarded(() => show(entry.id, undefined, null, 1))} />`}</li>`;
}

function Timeline() {
  const [all, setAll] = useState(false);
  const [query, setQuery] = useState('');
  const wide = timeline.value.length > 40;
  const found = timeline.value.filter((e) => `${e.date ?? ''} ${e.title}`.toLowerCase().includes(query.toLowerCase()));
  const records = found.filter((e) => e.kind === 'record');
  const rest = found.filter((e) => e.kind !== 'record');
  return html`${wide && html`<input type="search" class="find" placeholder=${t('find_in_case')} aria-label=${t('find_in_case')} value=${query} onInput=${(e) => setQuery(e.target.value)} />`}
    <ol id="timeline" class="timeline">${rest.slice(0, all ? undefined : 40).map((e) => html`<${Entry} key=${e.id} entry=${e} />`)}</ol>
    ${rest.length > 40 && !all && html`<button type="button" class="link" onClick=${() => setAll(true)}>${t('show_all', { n: rest.length })}</button>`}
    ${records.length > 0 && html`<details class="records" open=${Boolean(query)}><summary>${t('records', { n: records.length })}</summary><ol class="timeline">${records.map((e) => html`<${Entry} key=${e.id} entry=${e} />`)}</ol></details>`}`;
}

// What a file doesn't say of itself, to be said here.
function Asked({ ask }) {
  const [given, setGiven] = useState({});
  const [state, setState] = useState('');
  if (state === 'saved') return html`<li>${ask.file}: ${t('saved')}</li>`;
  const save = async () => { try { await describe(ask.study_id, given); setState('saved'); } catch (error) { setState([error.message, error.hint].filter(Boolean).join(' — ')); } };
  return html`<li class="asks">${ask.file}: ${t('say', { what: ask.missing.map((m) => t(`fields.${m}`)).join(', ') })}
    ${ask.study_id && html`${ask.missing.map((name) => html`<input key=${name} name=${name} type=${name === 'study_date' ? 'date' : 'text'} aria-label=${t(`fields.${name}`)} placeholder=${t(`fields.${name}`)} onInput=${(e) => setGiven({ ...given, [name]: e.target.value })} />`)}
      <${Button} icon="save" text=${t('save')} label=${t('save')} class="button" onClick=${save} />`}${state && html`<p class="bad" role="alert">${state}</p>`}</li>`;
}

function Upload({ upload }) {
  const { rows, done } = upload;
  const refused = done?.rejected ?? [];
  const bad = upload.state === 'failed';
  return html`<section class="upload ${upload.state}"><div class="row"><strong>${upload.state === 'done' ? t('taken', { n: done.studies.length + done.records.length }) : t(`uploading.${upload.state}`, { n: rows.length })}</strong><span class="grow"></span>
      <${Button} icon="x" label=${t('close')} class="button tool" onClick=${() => { uploads.value = uploads.value.filter((u) => u.key !== upload.key); }} /></div>
    ${!done && !bad && html`<progress max="1" value=${upload.share} aria-label=${t('uploading.sending', { n: rows.length })}></progress>`}
    ${bad && html`<p class="bad" role="alert">${upload.reason}${upload.hint ? ` — ${upload.hint}` : ''}</p>`}
    <ul>${rows.slice(0, 12).map((r) => html`<li key=${r.name} class=${r.state}><span class="name">${r.name}</span> <span class="quiet">${r.state === 'sending' ? `${Math.round(100 * r.share)} %` : r.state === 'refused' ? '' : t(`file.${r.state}`)}</span></li>`)}
      ${rows.length > 12 && html`<li class="quiet">${t('and_more', { n: rows.length - 12 })}</li>`}
      ${refused.map((r) => html`<li key=${`r${r.file}`} class="bad">${r.file}: ${t('refused')}. ${r.reason}</li>`)}
      ${(done?.conflicts ?? []).map((c) => html`<li key=${`c${c.file}`} class="bad">${c.file}: ${t('contradicts')}. ${c.reason}</li>`)}
      ${(done?.asks ?? []).map((a) => html`<${Asked} key=${`a${a.file}`} ask=${a} />`)}</ul></section>`;
}

function Drop() {
  const files = useRef(null);
  const folder = useRef(null);
  const pick = (event) => { take([...event.target.files]); event.target.value = ''; };
  if (!may('add_files')) return html`<p id="read-only" class="read-only"><${Icon} name="lock" />${t('read_only')}</p>`;
  return html`<div class="drop"><p><${Icon} name="upload" /> ${t('drop')}</p><div class="row">
      <${Button} id="pick" text=${t('choose_files')} label=${t('choose_files')} class="button" onClick=${() => files.current.click()} /><${Button} text=${t('choose_folder')} label=${t('choose_folder')} class="button" onClick=${() => folder.current.click()} /></div>
    <input id="files" ref=${files} type="file" multiple hidden onChange=${pick} /><input id="folder" ref=${folder} type="file" multiple webkitdirectory hidden onChange=${pick} /></div>
    <div id="uploads" class="uploads" aria-live="polite">${uploads.value.map((u) => html`<${Upload} key=${u.key} upload=${u} />`)}</div>`;
}

export function Side() {
  return html`<section class="pane case" aria-label=${t('case')}>
    <label class="field"><span>${t('patient')}</span><select id="patient" value=${patient.value} onChange=${guarded((e) => choose(e.target.value))}>${(patients.value ?? []).map((id) => html`<option key=${id} value=${id}>${id}</option>`)}</select></label>
    ${madeUp(patient.value) && html`<p id="case-note" class="caution">${t('made_up')}</p>`}
    <h2>${t('timeline')}</h2>${timeline.value.length === 0 && html`<p class="quiet">${t('nothing_yet')}</p>`}<${Timeline} />
    ${followUps.value.length > 0 && html`<h2>${t('followups')}</h2><ol id="followups" class="followups">${followUps.value.map((f, k) => html`<li key=${k} class=${f.status}><time>${f.due ?? '—'}</time>
      <span>${`${f.modalities.join('/') || t('examination')} ${f.body_part.toLowerCase()}`.trim()}: ${t(`due.${f.status}`)}</span><p class="quiet">“${f.sentence}”</p></li>`)}</ol>`}
    <${Drop} /></section>`;
}
