// What leaves for another system: where to, how it differs from what that system got last, who confirms it, and what became of it.
import { html, useEffect, useState } from '/web/vendor/ui.js';
import { get, post } from '/web/lib/api.js';
import { Button } from '/web/lib/common.js';
import { may } from '/web/lib/store.js';
import { t } from '/web/lib/words.js';

const ARCHIVE = 'archive';
const FORMS = { seg: 'DICOM SEG', sr: 'DICOM SR (TID 1500)', rtstruct: 'RTSTRUCT', ko: 'KO', sc: 'SC' };
const named = (receiver) => (receiver === ARCHIVE ? t('sending.archive') : receiver.replace(/^pacs:/, 'PACS ').replace(/^hl7:/, 'HL7 ').replace(/^ehr:/, 'EHR '));

// `kind`: report or mask; `what`: its names, as the API has them.
export function Sending({ kind, what }) {
  const [receivers, setReceivers] = useState([]);
  const [shown, setShown] = useState(null);
  const [name, setName] = useState('');
  const [forms, setForms] = useState(['seg']);
  const [problem, setProblem] = useState('');
  const trying = (work) => async () => { setProblem(''); try { await work(); } catch (error) { setProblem([error.message, error.hint].filter(Boolean).join(' — ')); } };
  useEffect(() => {
    if (may('send')) get('/v1/receivers').then((found) => setReceivers([...(kind === 'mask' ? [ARCHIVE] : []), ...Object.keys(found).filter((r) => found[r].includes(kind))]), () => setReceivers([]));
  }, [kind]);
  // Until it is there or was given up, its state is asked for.
  useEffect(() => {
    if (shown?.status !== 'waiting') return undefined;
    const timer = setTimeout(() => get(`/v1/outgoing/${shown.id}`).then(setShown, () => {}), 700);
    return () => clearTimeout(timer);
  }, [shown]);
  if (!receivers.length) return null;
  const propose = (receiver) => trying(async () => setShown(receiver === ARCHIVE ? { status: 'proposed', receiver, difference: [`+ DICOM SEG: ${what.name.replace('.nii.gz', '')}`] }
    : await post('/v1/outgoing', { kind, receiver, ...what })));
  const confirm = trying(async () => {
    if (shown.receiver !== ARCHIVE) return setShown(await post(`/v1/outgoing/${shown.id}/confirm`, { confirmed_by: name, sha256: shown.sha256 }));
    await post(`/v1/studies/${what.study_id}/series/${what.series_id}/masks/${encodeURIComponent(what.name)}/store`, { confirmed_by: name, forms });
    return setShown({ ...shown, status: 'sent' });
  });
  const leave = trying(async () => { if (shown.receiver !== ARCHIVE) await post(`/v1/outgoing/${shown.id}/decline`, {}); setShown(null); });
  const again = trying(async () => setShown(await post(`/v1/outgoing/${shown.id}/again`, {})));
  return html`<section class="sending"><h4>${t('sending.title')}</h4>
    ${!shown && html`<div class="row">${receivers.map((r) => html`<${Button} key=${r} icon="upload" text=${named(r)} label="${t('sending.to')} ${named(r)}" class="button" onClick=${propose(r)} />`)}</div>`}
    ${shown && html`<p><strong>${named(shown.receiver)}</strong> · ${t(`sending.${shown.status}`)}${shown.error ? `: ${shown.error}` : ''}</p>`}
    ${shown?.status === 'proposed' && html`<pre class="difference" tabindex="0" aria-label=${t('sending.difference')}>${shown.difference.map((line, k) => (line.startsWith('+ ') ? html`<ins key=${k}>${line.slice(2)}\n</ins>`
      : line.startsWith('- ') ? html`<del key=${k}>${line.slice(2)}\n</del>` : html`<span key=${k}>${line.slice(2)}\n</span>`))}</pre>
      ${shown.receiver === ARCHIVE && html`<div class="row">${Object.entries(FORMS).map(([form, text]) => html`<label key=${form}><input type="checkbox" checked=${forms.includes(form)}
        onChange=${(e) => setForms(e.target.checked ? [...forms, form] : forms.filter((f) => f !== form))} /> ${text}</label>`)}</div>`}
      <div class="row"><input placeholder=${t('your_name')} aria-label="${t('sending.by')}" value=${name} onInput=${(e) => setName(e.target.value)} />
      <${Button} icon="upload" text=${t('sending.confirm')} label=${t('sending.confirm')} class="button primary" disabled=${name.trim().length < 2 || (shown.receiver === ARCHIVE && !forms.length)} onClick=${confirm} />
      <${Button} icon="x" text=${t('sending.leave')} label=${t('sending.leave')} class="button" onClick=${leave} /></div>`}
    ${shown?.status === 'dead' && html`<div class="row"><${Button} icon="upload" text=${t('sending.again')} label=${t('sending.again')} class="button" onClick=${again} /></div>`}
    <p class="bad" role="alert">${problem}</p></section>`;
}
