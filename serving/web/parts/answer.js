// An answer: sentence by sentence, with what each stands on, what is missing, what disagrees, and what a person has to decide.
import { html, useState } from '/web/vendor/ui.js';
import { confirm, rate } from '/web/lib/ask.js';
import { Button, Icon, Picture, guarded, readable } from '/web/lib/common.js';
import { propose } from '/web/lib/case.js';
import { drawer, may, pane, said } from '/web/lib/store.js';
import { label, way } from '/web/lib/evidence.js';
import { has, seconds, t } from '/web/lib/words.js';
import { Chip } from '/web/parts/chip.js';

const toolName = (tool) => (has(`tools.${tool}`) ? t(`tools.${tool}`) : readable(tool));
const given = (args) => Object.entries(args ?? {}).filter(([, v]) => v !== null && v !== '' && !(typeof v === 'object' && !Object.keys(v).length))
  .map(([, v]) => (typeof v === 'object' ? JSON.stringify(v) : String(v))).join(' · ');

export function Plan({ turn }) {
  const busy = turn.state === 'working';
  const steps = turn.answer?.plan ?? turn.steps;
  if (!steps.length && !busy) return null;
  const counts = turn.answer ? Object.entries(turn.answer.evidence.reduce((all, e) => ({ ...all, [e.kind]: (all[e.kind] ?? 0) + 1 }), {})).map(([kind, n]) => t(`counts.${kind}`, { n })) : [];
  const spent = turn.spent ?? steps.reduce((sum, s) => sum + (s.seconds ?? 0), 0);
  const line = busy ? t('working') : [t('counts.steps', { n: steps.length }), ...counts, seconds(spent)].join(' · ');
  const known = (id) => turn.answer?.evidence.find((e) => e.id === id);
  return html`<details class="plan" open=${busy}><summary><${Icon} name=${busy ? 'loader' : 'list-checks'} /><span>${line}</span></summary>
    <ol>${steps.map((s, k) => html`<li key=${k} class="step ${s.status}"><span class="tool-name">${toolName(s.tool)}</span> <span class="given">${given(s.arguments)}</span>
      ${s.status === 'running' ? html`<progress max=${s.total ?? 1} value=${s.total ? s.done : undefined} aria-label=${toolName(s.tool)}></progress><${Elapsed} began=${s.began} />`
        : html`<span class="status">${t(`statuses.${s.status}`)} · ${seconds(s.seconds ?? 0)}</span>`}
      ${s.message && html`<p class="quiet">${s.message}</p>`}
      ${s.evidence?.length > 0 && html`<span class="chips">${s.evidence.slice(0, 8).map((id) => known(id) && html`<${Chip} key=${id} evidence=${known(id)} />`)}</span>`}</li>`)}</ol></details>`;
}

function Elapsed({ began }) {
  const [now, setNow] = useState(performance.now());
  setTimeout(() => setNow(performance.now()), 250);
  return html`<span class="status" aria-hidden="true">${seconds(Math.max(0, now - began) / 1000)}</span>`;
}

function Statement({ statement, evidence, urgent }) {
  const mine = statement.evidence.map((id) => evidence[id]).filter(Boolean);
  const { look, word } = way(mine[0]);
  const first = statement.evidence.some((id) => urgent.includes(id));
  const unsure = mine.some((e) => e.value?.checked === false);
  const picture = mine[0]?.value?.picture;
  return html`<p class="statement ${first ? 'urgent' : look ?? ''}" tabindex="-1"><span class="how"><${Icon} name=${first ? 'triangle-alert' : `way-${look ?? 'seen'}`} />${first ? t('urgent') : t(word) ?? ''}${unsure && html`<span class="unsure"> · ${t('unchecked')}</span>`}</span>
    <span class="words">${statement.text}</span> <span class="chips">${mine.map((e) => html`<${Chip} key=${e.id} evidence=${e} />`)}</span>
    ${picture && html`<${Picture} path=${picture} alt=${t('teaching_picture')} class="teaching" />`}</p>`;
}

function Missing({ rows }) {
  return html`<section class="card missing"><h4><${Icon} name="circle-help" />${t('missing')}</h4><ul>${rows.map((m, k) => html`<li key=${k}><strong>${m.what}</strong>: ${m.why}. ${t('with_it')}: ${m.would_change}.
      <span class="row"><${Button} icon="pencil" text=${t('say_it')} label=${t('say_it')} class="button" onClick=${() => propose(`${m.what}: `)} />
      ${may('add_files') && html`<${Button} icon="upload" text=${t('add_files')} label=${t('add_files')} class="button" onClick=${() => document.getElementById('files').click()} />`}</span></li>`)}</ul></section>`;
}

function Conflict({ conflict, evidence }) {
  const sides = conflict.statements.map((text, k) => ({ text, evidence: conflict.evidence[k] ? [conflict.evidence[k]] : [] }));
  const rest = conflict.evidence.slice(conflict.statements.length);
  return html`<section class="card conflict"><h4><${Icon} name="git-compare" />${t('conflict')}</h4><div class="sides">${sides.map((s, k) => html`<div key=${k}><p>${s.text}</p>
    <span class="chips">${s.evidence.map((id) => html`<${Chip} key=${id} evidence=${evidence[id]} />`)}</span></div>`)}</div>
    ${rest.length > 0 && html`<span class="chips">${rest.map((id) => html`<${Chip} key=${id} evidence=${evidence[id]} />`)}</span>`}</section>`;
}

// What waits for a person: nothing is written before the button is pressed.
function Confirm({ turn }) {
  const [sent, setSent] = useState(false);
  const decide = (approve) => guarded(async () => { setSent(true); await confirm(turn, approve); });
  return html`<section class="card confirm"><h4><${Icon} name="shield-question" />${t('confirm_ask')}</h4>${turn.answer.confirm.map((w, k) => html`<p key=${k}><strong>${toolName(w.tool)}</strong> <code>${w.tool}</code> ${given(w.arguments)}</p>`)}
    ${!may('confirm') && html`<p class="quiet"><${Icon} name="lock" /> ${t('read_only')}</p>`}
    <div class="row"><${Button} icon="check" text=${t('confirm_yes')} label=${t('confirm_yes')} class="button primary" disabled=${sent || !may('confirm')} onClick=${decide(true)} />
      <${Button} icon="x" text=${t('confirm_no')} label=${t('confirm_no')} class="button" disabled=${sent || !may('confirm')} onClick=${decide(false)} /></div></section>`;
}

const cited = (answer) => [...answer.statements.map((s) => `${s.text} ${s.evidence.map((id) => `[${id}]`).join('')}`), '',
  ...answer.evidence.filter((e) => answer.statements.some((s) => s.evidence.includes(e.id))).map((e) => `[${e.id}] ${e.title}: ${label(e)}`), '', t('research')].join('\n');

function Hands({ turn }) {
  const [rated, setRated] = useState(null);
  const [words, setWords] = useState('');
  const send = (rating, correction) => guarded(async () => { await rate(turn, rating, correction); setRated(correction ? 'corrected' : rating); });
  return html`<div class="hands"><${Button} icon="copy" label=${t('copy')} class="button tool" onClick=${guarded(async () => { await navigator.clipboard.writeText(cited(turn.answer)); said.value = { text: t('copied'), calm: true }; })} />
    <${Button} icon="thumbs-up" label=${t('good')} class="button tool" aria-pressed=${rated === 'up'} onClick=${send('up')} />
    <${Button} icon="thumbs-down" label=${t('bad')} class="button tool" aria-pressed=${rated === 'down' || rated === 'corrected'} onClick=${send('down')} />
    <span class="quiet planner-note">${turn.answer.provenance.planner.kind === 'llm' ? turn.answer.provenance.planner.model : t('planner_builtin_short')}</span>
    ${rated === 'down' && html`<form class="correction" onSubmit=${(e) => { e.preventDefault(); if (words.trim()) send('down', words.trim())(); }}>
      <textarea rows="2" placeholder=${t('correct_it')} aria-label=${t('correct_it')} value=${words} onInput=${(e) => setWords(e.target.value)}></textarea><button type="submit" class="button">${t('send_correction')}</button></form>`}
    ${rated === 'corrected' && html`<span role="status" class="quiet">${t('thanks')}</span>`}</div>`;
}

const OPENERS = { draft: 'file-pen', check: 'file-check', worksheet: 'list-checks' };
export function Answer({ turn }) {
  const { answer } = turn;
  const evidence = Object.fromEntries(answer.evidence.map((e) => [e.id, e]));
  const lead = answer.lead && html`<p class="lead">${answer.lead}</p>`;
  const last = answer.urgent.at(-1);
  return html`<div class="answer ${answer.abstained ? 'abstained' : ''}">
    ${!answer.urgent.length && lead}
    ${answer.statements.map((s, k) => html`<${Statement} key=${k} statement=${s} evidence=${evidence} urgent=${answer.urgent} />${last && s.evidence.includes(last) && lead}`)}
    ${!answer.statements.length && !answer.lead && html`<p class="lead">${answer.text.split('\n\n')[0]}</p>`}
    ${answer.plan.filter((s) => s.made && s.made.kind in OPENERS).map((s) => html`<button key=${s.made.id} type="button" class="button made" onClick=${() => { drawer.value = { kind: s.made.kind, id: s.made.id }; pane.value = 'view'; }}>
      <${Icon} name=${OPENERS[s.made.kind]} /><span>${t(`open.${s.made.kind}`)}: ${s.made.title}</span></button>`)}
    ${answer.conflicts.map((c, k) => html`<${Conflict} key=${k} conflict=${c} evidence=${evidence} />`)}
    ${answer.missing.length > 0 && html`<${Missing} rows=${answer.missing} />`}
    ${answer.confirm.length > 0 && html`<${Confirm} turn=${turn} />`}
    ${answer.left_out.length > 0 && html`<details class="left-out"><summary>${t('left_out', { n: answer.left_out.length })}</summary>${answer.left_out.map((l, k) => html`<p key=${k}><del>${l.text}</del> <span class="quiet">${l.reason}</span></p>`)}</details>`}
    <${Hands} turn=${turn} />
  </div>`;
}
