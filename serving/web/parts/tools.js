// Which tools the conversation may use, with what each is for, how well it does it, and where it must not be used.
import { html, useEffect, useState } from '/web/vendor/ui.js';
import { get, put } from '/web/lib/api.js';
import { Icon, guarded } from '/web/lib/common.js';
import { conversation } from '/web/lib/store.js';
import { has, t } from '/web/lib/words.js';

const shown = (name) => (has(`tools.${name}`) ? t(`tools.${name}`) : name.replaceAll('_', ' '));

function List() {
  const [tools, setTools] = useState([]);
  const [only, setOnly] = useState(null);
  const id = conversation.value;
  useEffect(() => { if (id) Promise.all([get('/v1/tools'), get(`/v1/conversations/${id}`)]).then(guarded(([every, one]) => { setTools(every); setOnly(one.tools); })); }, [id]);
  const names = tools.map((one) => one.name);
  const chosen = only ?? names;
  const pin = guarded(async (wanted) => setOnly((await put(`/v1/conversations/${id}/tools`, { only: wanted.length === names.length ? null : wanted })).only));
  const change = (name, on) => pin(names.filter((n) => (n === name ? on : chosen.includes(n))));
  return html`<div class="sheet tools"><p class="quiet">${t('tools_held')}</p>
    <button type="button" class="link" disabled=${only === null} onClick=${() => pin(names)}>${t('tools_all')}</button>
    <ul>${tools.map((one) => html`<li key=${one.name}><label><input type="checkbox" checked=${chosen.includes(one.name)} onChange=${(e) => change(one.name, e.target.checked)} /> ${shown(one.name)}</label>
      <details><summary class="quiet">${t('tool_card.title')}</summary><p>${one.description}</p><dl>${['intended_use', 'accuracy', 'limits', 'licence', 'version'].map((part) => html`<dt key=${part}>${t(`tool_card.${part}`)}</dt><dd>${one.card[part]}</dd>`)}</dl></details></li>`)}</ul></div>`;
}

export function Tools() {
  const [open, setOpen] = useState(false);
  return html`<details class="menu" onToggle=${(e) => setOpen(e.target.open)}><summary class="button" title=${t('tools_used')}><${Icon} name="list-checks" /><span>${t('tools_used')}</span></summary>${open && html`<${List} />`}</details>`;
}
