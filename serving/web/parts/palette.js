// Go anywhere by typing: patients, parts of the case, earlier conversations, and what the page can do.
import { html, useEffect, useLayoutEffect, useRef, useState } from '/web/vendor/ui.js';
import { get } from '/web/lib/api.js';
import { begin, choose, resume } from '/web/lib/case.js';
import { Icon, guarded } from '/web/lib/common.js';
import { drawer, folded, help, history, language, palette, pane, patients, theme, timeline } from '/web/lib/store.js';
import { compare, layout, nextPreset, show } from '/web/lib/viewer.js';
import { LANGUAGES, t } from '/web/lib/words.js';

const places = () => [
  ...timeline.value.filter((e) => e.kind !== 'record').map((e) => ({ icon: e.kind === 'study' ? 'scan' : 'file-text', text: `${e.date ?? ''} ${e.title}`, work: async () => {
    if (e.kind === 'study') await show(e.id);
    else { drawer.value = { kind: 'report', report: await get(`/v1/reports/${e.id}`) }; folded.value = { ...folded.value, drawer: false }; }
    pane.value = 'view';
  } })),
  ...(patients.value ?? []).map((id) => ({ icon: 'user', text: id, work: () => choose(id) })),
  ...history.value.map((c) => ({ icon: 'history', text: `${c.created.slice(0, 10)} ${c.title}`, work: () => resume(c.id) })),
  { icon: 'plus', text: t('new_conversation'), work: () => begin() },
  { icon: 'upload', text: t('choose_files'), work: () => document.getElementById('files').click() },
  { icon: 'columns-2', text: t('layouts.two'), work: compare }, ...['one', 'planes', 'solid'].map((name) => ({ icon: 'square', text: t(`layouts.${name}`), work: () => { layout.value = name; } })),
  { icon: 'contrast', text: t('next_window'), work: nextPreset },
  { icon: 'sun-moon', text: t('theme'), work: () => { theme.value = theme.value === 'dark' ? 'light' : 'dark'; } },
  ...Object.entries(LANGUAGES).map(([code, name]) => ({ icon: 'languages', text: name, work: () => { language.value = code; } })),
  { icon: 'keyboard', text: t('keys'), work: () => { help.value = true; } },
];

export function Palette() {
  const box = useRef(null);
  const [query, setQuery] = useState('');
  const [at, setAt] = useState(0);
  useLayoutEffect(() => { if (palette.value) { box.current.showModal(); setQuery(''); setAt(0); } else box.current?.close(); }, [palette.value]);
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const found = palette.value ? places().filter((p) => words.every((w) => p.text.toLowerCase().includes(w))).slice(0, 30) : [];
  const go = guarded(async (place) => { palette.value = false; await place?.work(); });
  const onKey = (event) => {
    if (event.key === 'ArrowDown' || event.key === 'ArrowUp') { event.preventDefault(); setAt((at + (event.key === 'ArrowDown' ? 1 : found.length - 1)) % Math.max(1, found.length)); }
    else if (event.key === 'Enter') { event.preventDefault(); go(found[at]); }
  };
  return html`<dialog ref=${box} class="palette" aria-label=${t('go_anywhere')} onClose=${() => { palette.value = false; }}>
    <input type="text" role="combobox" aria-expanded="true" aria-controls="places" aria-activedescendant=${`place-${at}`} placeholder=${t('go_anywhere')} aria-label=${t('go_anywhere')} value=${query}
      onInput=${(e) => { setQuery(e.target.value); setAt(0); }} onKeyDown=${onKey} />
    <ul id="places" role="listbox" aria-label=${t('go_anywhere')}>${found.map((p, k) => html`<li key=${`${p.icon}${p.text}`} id=${`place-${k}`} role="option" aria-selected=${k === at} onClick=${() => go(p)}><${Icon} name=${p.icon} />${p.text}</li>`)}</ul></dialog>`;
}

const KEYS = [['/', 'question'], ['⌘K', 'go_anywhere'], ['j k', 'key_statements'], ['e', 'key_open'], ['[ ]', 'key_slices'], ['␣', 'play'], ['w', 'next_window'], ['c', 'layouts.two'], ['.', 'stop'], ['n', 'new_conversation'], ['?', 'keys']];
export function Help() {
  const box = useRef(null);
  useEffect(() => { if (help.value) box.current.showModal(); else box.current?.close(); }, [help.value]);
  return html`<dialog ref=${box} class="help" aria-label=${t('keys')} onClose=${() => { help.value = false; }}><h3>${t('keys')}</h3>
    <dl>${KEYS.map(([key, name]) => html`<dt key=${key}><kbd>${key}</kbd></dt><dd>${t(name)}</dd>`)}</dl><p class="quiet">${t('mouse')}</p>
    <form method="dialog"><button class="button primary">${t('close')}</button></form></dialog>`;
}
