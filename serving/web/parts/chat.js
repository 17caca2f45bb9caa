// The conversation: questions, what is done for them, answers, and the place to ask.
import { html, useEffect, useRef, useState } from '/web/vendor/ui.js';
import { ask, stop } from '/web/lib/ask.js';
import { Button, Icon, download, guarded, useNewest } from '/web/lib/common.js';
import { begin, forget, listed, resume } from '/web/lib/case.js';
import { blob } from '/web/lib/api.js';
import { alone, asking, conversation, editing, gone, history, patients, place, suggestions, turns, working } from '/web/lib/store.js';
import { t } from '/web/lib/words.js';
import { Answer, Plan } from '/web/parts/answer.js';
import { Tools } from '/web/parts/tools.js';

function Turn({ turn, last, next }) {
  const kept = turn.state === 'done';
  return html`<article class="turn" aria-busy=${turn.state === 'working'}>
    <div class="asked"><p>${turn.question}</p>${turn.at && html`<span class="spot"><${Icon} name="crosshair" />${turn.at.series} · ${turn.at.point[2] + 1}</span>`}
      ${turn.images?.map((url, k) => html`<img key=${k} src=${url} alt=${t('your_picture')} class="thumb" />`)}
      ${kept && html`<div class="hands">${last && html`<${Button} icon="rotate-ccw" label=${t('retry')} class="button tool" onClick=${() => ask(turn.question)} />`}
        <${Button} icon="pencil" label=${t('edit')} class="button tool" onClick=${() => { editing.value = turn; asking.value = turn.question; document.getElementById('question').focus(); }} /></div>`}</div>
    <${Plan} turn=${turn} />
    ${turn.lost && html`<p class="notice-line" role="status">${t('lost')}</p>`}
    ${turn.state === 'working' && turn.text && html`<p class="streaming">${turn.text.replace(/\[E\d+\]\s?/g, '')}</p>`}
    ${turn.answer && html`<${Answer} turn=${turn} />`}
    ${turn.state === 'failed' && html`<div class="problem" role="alert"><p>${turn.problem.text}${turn.problem.hint ? ` — ${turn.problem.hint}` : ''}</p>
      <${Button} icon="rotate-ccw" text=${t('retry')} label=${t('retry')} class="button" onClick=${() => ask(turn.question, turn.images)} /></div>`}
    ${next.length > 0 && html`<div class="next" role="group" aria-label=${t('try')}>${next.map((text) => html`<button key=${text} type="button" class="button" onClick=${() => ask(text)}>${text}</button>`)}</div>`}
  </article>`;
}

function History() {
  const [query, setQuery] = useState('');
  useEffect(() => { const later = setTimeout(guarded(() => listed(query)), 150); return () => clearTimeout(later); }, [query]);
  return html`<div class="sheet history"><input type="search" placeholder=${t('search_history')} aria-label=${t('search_history')} value=${query} onInput=${(e) => setQuery(e.target.value)} />
    ${history.value.length === 0 && html`<p class="quiet">${t('no_history')}</p>`}
    <ul>${history.value.map((c) => html`<li key=${c.id} class=${c.id === conversation.value ? 'current' : ''}><button type="button" class="entry" onClick=${guarded(() => resume(c.id))}><time>${c.created.slice(0, 16).replace('T', ' ')}</time><span>${c.title}</span></button>
      <${Button} icon="trash-2" label="${t('delete')}: ${c.title}" class="button tool" onClick=${guarded(async () => { if (window.confirm(t('delete_sure'))) await forget(c.id); })} /></li>`)}</ul></div>`;
}

const FORMS = [['md', 'Markdown', 'md'], ['pdf', 'PDF', 'pdf'], ['fhir', 'FHIR', 'json']];
function Head() {
  const out = (form, ending) => guarded(async () => download(await blob(`/v1/conversations/${conversation.value}/export?format=${form}`), `consilium-${conversation.value}.${ending}`));
  return html`<div class="chat-head"><${Button} icon="plus" text=${t('new_conversation')} label=${t('new_conversation')} class="button" onClick=${guarded(() => begin())} />
    <details class="menu"><summary class="button" title=${t('history')}><${Icon} name="history" /><span>${t('history')}</span></summary><${History} /></details><${Tools} /><span class="grow"></span>
    <details class="menu end"><summary class="button" title=${t('export')} aria-disabled=${!turns.value.some((x) => x.answer)}><${Icon} name="download" /><span>${t('export')}</span></summary>
      <div class="sheet">${FORMS.map(([form, text, ending]) => html`<button key=${form} type="button" class="entry" disabled=${!turns.value.some((x) => x.answer)} onClick=${out(form, ending)}>${text}</button>`)}</div></details></div>`;
}

const asUrl = (file) => new Promise((resolve) => { const reader = new FileReader(); reader.addEventListener('load', () => resolve(reader.result)); reader.readAsDataURL(file); });

function Ask() {
  const [images, setImages] = useState([]);
  const area = useRef(null);
  const send = () => { ask(asking.value, images); setImages([]); };
  const onKey = (event) => {
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
    else if (event.key === 'Escape') { if (editing.value) { editing.value = null; asking.value = ''; } area.current.blur(); }
  };
  const onPaste = async (event) => {
    const files = [...event.clipboardData.files].filter((f) => ['image/png', 'image/jpeg'].includes(f.type));
    if (files.length) { event.preventDefault(); setImages([...images, ...await Promise.all(files.map(asUrl))]); }
  };
  return html`<form id="ask" class="ask" onSubmit=${(e) => { e.preventDefault(); send(); }}>
    ${editing.value && html`<p class="notice-line">${t('editing')} <button type="button" class="link" onClick=${() => { editing.value = null; asking.value = ''; }}>${t('cancel')}</button></p>`}
    ${place.value && html`<span class="spot"><${Icon} name="crosshair" />${place.value.series} · ${place.value.point[2] + 1} <${Button} icon="x" label=${t('take_out')} class="button tool" onClick=${() => { place.value = null; }} /></span>`}
    ${images.length > 0 && html`<div class="row">${images.map((url, k) => html`<button key=${k} type="button" class="thumb-button" title=${t('take_out')} onClick=${() => setImages(images.filter((_, n) => n !== k))}><img src=${url} alt=${t('your_picture')} class="thumb" /></button>`)}</div>`}
    <div class="ask-box"><textarea id="question" ref=${area} rows="2" maxlength="8000" placeholder=${t('ask_here')} aria-label=${t('question')} value=${asking.value} onInput=${(e) => { asking.value = e.target.value; }} onKeyDown=${onKey} onPaste=${onPaste}></textarea>
      ${working.value ? html`<${Button} id="stop" icon="square" text=${t('stop')} label=${t('stop')} class="button" onClick=${stop} />`
        : html`<button id="send" type="submit" class="button primary" disabled=${!asking.value.trim() || !conversation.value}><${Icon} name="arrow-up" /><span>${t('send')}</span></button>`}</div></form>`;
}

export function Chat() {
  const box = useNewest(turns.value.length);
  const empty = turns.value.length === 0;
  const last = turns.value.at(-1);
  const next = last && last.state !== 'working' ? suggestions.value.filter((s) => !turns.value.some((x) => x.question === s)).slice(0, 3) : [];
  return html`<section class="pane chat" aria-label=${t('conversation')}><${Head} />
    <div id="log" class="log" ref=${box} role="log" aria-live="polite" aria-label=${t('conversation')} tabindex="0">
      ${patients.value?.length === 0 && html`<p class="quiet">${t('no_patients')}</p>`}
      ${empty && suggestions.value.length > 0 && html`<div class="starters"><p class="quiet">${t('try')}</p>${suggestions.value.map((text) => html`<button key=${text} type="button" class="button" onClick=${() => ask(text)}>${text}</button>`)}</div>`}
      ${turns.value.map((turn) => html`<${Turn} key=${turn.key} turn=${turn} last=${turn === last} next=${turn === last ? next : []} />`)}
    </div>
    ${alone.value && html`<p class="notice-line alone">${t('about_alone', { study: `${alone.value.date ?? t('undated')} ${alone.value.description}` })} <button type="button" class="link" onClick=${guarded(() => begin())}>${t('whole_case')}</button></p>`}
    ${gone.value && html`<p class="problem" role="alert">${t('server_gone')}</p>`}
    <${Ask} /></section>`;
}
