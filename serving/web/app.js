// The page: case at the left, images in the middle, conversation at the right, each sentence a link between them.
import { effect, html, render } from '/web/vendor/ui.js';
import { get, wanted } from '/web/lib/api.js';
import { stop } from '/web/lib/ask.js';
import { begin, dropped, last, refresh, remember, resume, suggest, take } from '/web/lib/case.js';
import { Button, Icon, guarded } from '/web/lib/common.js';
import { openById } from '/web/lib/evidence.js';
import { columns, folded, help, language, palette, pane, ready, said, session, theme, working } from '/web/lib/store.js';
import { compare, nextPreset, step } from '/web/lib/viewer.js';
import { LANGUAGES, spoken, t } from '/web/lib/words.js';
import { Chat } from '/web/parts/chat.js';
import { Drawer } from '/web/parts/drawer.js';
import { Help, Palette } from '/web/parts/palette.js';
import { Side } from '/web/parts/side.js';
import { Stage, Toolbar } from '/web/parts/stage.js';

effect(() => { document.documentElement.dataset.theme = theme.value; });
effect(() => { document.documentElement.lang = spoken.value; });
effect(() => {
  const { style } = document.documentElement;
  for (const [name, value] of Object.entries(columns.value)) style.setProperty(`--${name}-size`, `${value}px`);
});

// The edge between two panes: dragged, or moved by the arrow keys.
const LIMITS = { case: [180, 560], chat: [320, 900], drawer: [100, 700] };
function Edge({ name, sign, across }) {
  const set = (value) => { const [low, high] = LIMITS[name]; columns.value = { ...columns.value, [name]: Math.round(Math.max(low, Math.min(high, value))) }; };
  const onDown = (event) => {
    const from = columns.value[name];
    const start = across ? event.clientY : event.clientX;
    event.target.setPointerCapture(event.pointerId);
    const move = (now) => set(from + sign * ((across ? now.clientY : now.clientX) - start));
    event.target.addEventListener('pointermove', move);
    event.target.addEventListener('pointerup', () => event.target.removeEventListener('pointermove', move), { once: true });
  };
  const onKey = (event) => { const by = { ArrowLeft: -16, ArrowRight: 16, ArrowUp: -16, ArrowDown: 16 }[event.key]; if (by) { event.preventDefault(); set(columns.value[name] + sign * by); } };
  return html`<div class="edge ${across ? 'across' : ''}" role="separator" tabindex="0" aria-label=${t(`edges.${name}`)} aria-orientation=${across ? 'horizontal' : 'vertical'} aria-valuenow=${columns.value[name]}
    aria-valuemin=${LIMITS[name][0]} aria-valuemax=${LIMITS[name][1]} onPointerDown=${onDown} onKeyDown=${onKey}></div>`;
}

function Bar() {
  const planner = ready.value?.planner;
  const fold = (name) => () => { folded.value = { ...folded.value, [name]: !folded.value[name] }; };
  return html`<header class="bar"><${Button} icon="panel-left" label=${t('fold_case')} class="button tool wide-only" aria-pressed=${!folded.value.case} onClick=${fold('case')} />
    <h1>Consilium</h1><span class="notice"><${Icon} name="flask-conical" />${t('research')}</span><span class="grow"></span>
    <span id="planner" class="quiet">${planner ? (planner.kind === 'llm' ? t('planner_llm', { name: planner.model }) : t('planner_builtin')) : ''}</span>
    <${Button} icon="search" text="⌘K" label=${t('go_anywhere')} class="button" aria-label=${t('go_anywhere')} onClick=${() => { palette.value = true; }} />
    <select aria-label=${t('language')} value=${spoken.value} onChange=${guarded(async (e) => { language.value = e.target.value; await suggest(); })}>${Object.entries(LANGUAGES).map(([code, name]) => html`<option key=${code} value=${code}>${name}</option>`)}</select>
    <${Button} id="theme" icon="sun-moon" label=${t('theme')} class="button tool" onClick=${() => { theme.value = theme.value === 'dark' ? 'light' : 'dark'; }} />
    <${Button} icon="keyboard" label=${t('keys')} class="button tool wide-only" onClick=${() => { help.value = true; }} /></header>`;
}

function Said() {
  const now = said.value;
  if (!now) return null;
  return html`<div class="toast ${now.calm ? 'calm' : ''}" role=${now.calm ? 'status' : 'alert'}><span>${now.text}${now.hint ? ` — ${now.hint}` : ''}</span><${Button} icon="x" label=${t('close')} class="button tool" onClick=${() => { said.value = null; }} /></div>`;
}

const TABS = [['case', 'folder'], ['view', 'scan'], ['chat', 'message-circle']];
function App() {
  return html`<${Bar} /><nav class="tabs" aria-label=${t('panes')}>${TABS.map(([name, icon]) => html`<${Button} key=${name} icon=${icon} text=${t(`tabs.${name}`)} label=${t(`tabs.${name}`)} class="button" aria-current=${pane.value === name} onClick=${() => { pane.value = name; }} />`)}</nav>
    <main class="panes ${folded.value.case ? 'no-case' : ''}" data-shown=${pane.value}>
      <${Side} /><${Edge} name="case" sign=${1} />
      <section class="pane view" aria-label=${t('images')}><${Toolbar} /><${Stage} /><${Edge} name="drawer" sign=${-1} across=${true} /><${Drawer} /></section>
      <${Edge} name="chat" sign=${-1} /><${Chat} />
    </main><${Said} /><${Palette} /><${Help} />`;
}

// j and k go through the statements, e opens what the chosen one stands on.
let at = -1;
function walk(by) {
  const all = [...document.querySelectorAll('.statement')];
  if (!all.length) return;
  const here = all.indexOf(document.activeElement.closest('.statement'));
  at = Math.max(0, Math.min(all.length - 1, (here < 0 ? (at < 0 && by > 0 ? -1 : at) : here) + by));
  all[at].focus();
  all[at].scrollIntoView({ block: 'nearest' });
}
const KEYS = {
  '/': () => document.getElementById('question').focus(), j: () => walk(1), k: () => walk(-1),
  e: () => document.activeElement.closest('.statement')?.querySelector('.chip')?.click(),
  '[': () => step(-1), ']': () => step(1), w: nextPreset, c: guarded(compare), '.': () => { if (working.value) stop(); }, n: guarded(() => begin()), '?': () => { help.value = true; },
};
document.addEventListener('keydown', (event) => {
  if ((event.metaKey || event.ctrlKey) && event.key.toLowerCase() === 'k') { event.preventDefault(); palette.value = !palette.value; return; }
  if (event.metaKey || event.ctrlKey || event.altKey || event.target.closest('input, textarea, select, dialog')) return;
  const work = KEYS[event.key];
  if (work) { event.preventDefault(); work(); }
});
document.addEventListener('click', (event) => { for (const menu of document.querySelectorAll('details.menu[open]')) if (!menu.contains(event.target)) menu.open = false; });
document.addEventListener('keydown', (event) => { if (event.key === 'Escape') for (const menu of document.querySelectorAll('details.menu[open]')) menu.open = false; });
for (const name of ['dragover', 'dragleave', 'drop']) {
  document.addEventListener(name, async (event) => {
    if (!event.dataTransfer?.types.includes('Files')) return;
    event.preventDefault();
    document.body.classList.toggle('over', name === 'dragover');
    if (name === 'drop') await take(await dropped(event.dataTransfer));
  });
}

render(html`<${App} />`, document.getElementById('app'));
guarded(async () => {
  ready.value = await fetch('/readyz').then((r) => r.json());
  session.value = await get('/v1/session');
  await refresh(...(wanted.patient ? [wanted.patient] : last()));
  effect(remember);
  if (wanted.conversation) await resume(wanted.conversation);
  if (wanted.evidence) await openById(wanted.evidence);
})();
