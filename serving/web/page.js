// The page: case at the left, image in the middle, conversation at the right.
import { get, patch, post, remove, stream, upload } from '/web/api.js';
import { show } from '/web/evidence.js';
import { fill, messages } from '/web/messages.js';
import { open, step } from '/web/viewer.js';
import { followUps, opener, picture } from '/web/work.js';

const byId = (id) => document.getElementById(id);
const node = (tag, text, name) => { const made = document.createElement(tag); if (text) made.textContent = text; if (name) made.className = name; return made; };
const [log, question, stop, send, patient] = ['log', 'question', 'stop', 'send', 'patient'].map(byId);
let conversation = null;

fill(document);
document.documentElement.dataset.theme = localStorage.getItem('consilium.theme') ?? 'dark';
byId('theme').addEventListener('click', () => {
  const theme = document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark';
  document.documentElement.dataset.theme = theme;
  localStorage.setItem('consilium.theme', theme);
});
const pane = (name) => {
  document.querySelector('.panes').dataset.shown = name;
  for (const tab of document.querySelectorAll('.tabs button')) tab.setAttribute('aria-current', String(tab.dataset.pane === name));
};
for (const tab of document.querySelectorAll('.tabs button')) tab.addEventListener('click', () => pane(tab.dataset.pane));

const say = (text, name = 'error') => { log.append(node('p', text, name)); log.scrollTop = log.scrollHeight; };
const guarded = (work) => async (...args) => {
  try { await work(...args); } catch (error) { say(error.status === 401 ? messages.no_key : error.status ? error.message : messages.server_gone); }
};

async function timeline() {
  const entries = await get(`/v1/patients/${encodeURIComponent(patient.value)}/timeline`);
  byId('timeline').replaceChildren(...entries.map((entry) => {
    const item = node('li');
    const button = node('button');
    button.type = 'button';
    button.append(node('time', entry.date ?? '—'), entry.title);
    if (entry.kind === 'study') button.addEventListener('click', guarded(async () => { await open(entry.id); pane('view'); }));
    else if (entry.kind === 'report') button.addEventListener('click', guarded(async () => {
      const report = await get(`/v1/reports/${entry.id}`);
      byId('drawer').replaceChildren(node('h3', report.title), node('pre', report.text));
      pane('view');
    }));
    item.append(button);
    return item;
  }));
  return entries;
}

async function choose() {
  log.replaceChildren();
  const opened = await post('/v1/conversations', { patient_id: patient.value });
  conversation = opened.id;
  const sample = patient.value === 'SAMPLE-GLIOMA';
  byId('case-note').hidden = !sample;
  byId('case-note').textContent = messages.made_up;
  const entries = await timeline();
  await followUps(patient.value, byId('followups'));
  const study = entries.find((e) => e.kind === 'study');
  if (study) await open(study.id);
  const box = node('div', null, 'starters');
  box.append(node('span', messages.try, 'quiet'), ...messages.starters.map((text) => {
    const button = node('button', text);
    button.type = 'button';
    button.addEventListener('click', () => { question.value = text; byId('ask').requestSubmit(); });
    return button;
  }));
  log.append(box);
}

async function patients(wanted) {
  const ids = await get('/v1/patients');
  patient.replaceChildren(...ids.map((id) => new Option(id, id, false, id === wanted)));
  if (ids.length) await choose();
  else log.replaceChildren(node('p', messages.no_patients, 'quiet'));
}

function chip(evidence) {
  const label = evidence.kind === 'measurement' ? `${evidence.value} ${evidence.unit}` : messages.kinds[evidence.kind];
  const button = node('button', `${evidence.id} · ${label}`, 'chip');
  button.type = 'button';
  button.title = evidence.title;
  button.dataset.evidence = evidence.id;
  button.setAttribute('aria-pressed', 'false');
  button.addEventListener('click', guarded(async () => {
    for (const other of document.querySelectorAll('.chip[aria-pressed="true"]')) other.setAttribute('aria-pressed', 'false');
    button.setAttribute('aria-pressed', 'true');
    await show(evidence);
    pane('view');
  }));
  return button;
}

const WAYS = { measurement: 'measured', report: 'quoted', record: 'quoted', guideline: 'recommended', rule: 'recommended', finding: 'measured' };
function written(answer) {
  const box = node('div', null, 'answer');
  const evidence = Object.fromEntries(answer.evidence.map((e) => [e.id, e]));
  const lead = answer.lead ? node('p', answer.lead, 'lead') : null;
  if (lead && !answer.urgent.length) box.append(lead);
  for (const statement of answer.statements) {
    const kind = evidence[statement.evidence[0]]?.kind;
    const first = statement.evidence.some((id) => answer.urgent.includes(id));
    const line = node('p', null, `statement ${first ? 'urgent' : WAYS[kind] ?? ''}`);
    const unchecked = statement.evidence.some((id) => evidence[id]?.value?.checked === false);
    line.append(node('span', first ? messages.urgent : messages.ways[kind] ?? '', 'how'), ...(unchecked ? [node('span', messages.unchecked, 'how unsure')] : []),
      statement.text, ...statement.evidence.map((id) => chip(evidence[id])));
    box.append(line);
    const shown = evidence[statement.evidence[0]]?.value?.picture;
    if (shown) picture(shown).then((image) => line.append(image), () => {});
    if (lead && statement.evidence.includes(answer.urgent.at(-1))) box.append(lead);
  }
  for (const step of answer.plan) if (step.made && step.made.kind !== 'quiz') box.append(opener(step.made));
  for (const conflict of answer.conflicts) {
    const both = node('div', null, 'missing');
    both.append(node('strong', messages.conflict), ...conflict.statements.map((s) => node('p', s)), ...conflict.evidence.map((id) => chip(evidence[id])));
    box.append(both);
  }
  if (answer.missing.length) {
    const missing = node('div', null, 'missing');
    const list = node('ul');
    for (const m of answer.missing) list.append(node('li', `${m.what}: ${m.why}. ${messages.with_it}: ${m.would_change}.`));
    missing.append(node('strong', messages.missing), list);
    box.append(missing);
  }
  if (answer.confirm.length) box.append(confirming(answer.confirm));
  if (answer.left_out.length) {
    const details = node('details');
    details.append(node('summary', `${messages.left_out} (${answer.left_out.length})`), ...answer.left_out.map((l) => node('p', `${l.text} — ${l.reason}`)));
    box.append(details);
  }
  return box;
}

// What waits for a person: nothing is written before the button is pressed.
function confirming(waiting) {
  const card = node('div', null, 'confirm');
  card.append(node('strong', messages.confirm_ask), ...waiting.map((w) => node('p', `${w.tool} ${JSON.stringify(w.arguments)}`)));
  for (const [approve, label] of [[true, messages.confirm_yes], [false, messages.confirm_no]]) {
    const button = node('button', label);
    button.type = 'button';
    button.addEventListener('click', guarded(async () => {
      for (const other of card.querySelectorAll('button')) other.disabled = true;
      card.replaceWith(written(await post(`/v1/conversations/${conversation}/messages/current/confirm`, { approve })));
    }));
    card.append(button);
  }
  return card;
}

function strip() {
  const details = node('details', null, 'strip');
  details.open = true;
  const summary = node('summary', `${messages.working} …`);
  const steps = node('ol');
  details.append(summary, steps);
  const rows = new Map();
  return { details,
    started: ({ tool, arguments: given }) => { const row = node('li', `${tool} …`); rows.set(tool + JSON.stringify(given), row).set(tool, row); steps.append(row); },
    progress: ({ tool, done, total }) => { const row = rows.get(tool); if (row) row.textContent = `${tool} ${done}/${total}`; },
    finished: ({ tool, arguments: given, status, seconds }) => { const row = rows.get(tool + JSON.stringify(given)); if (row) row.textContent = `${tool}: ${status} · ${seconds} s`; },
    close: (answer) => { summary.textContent = `${answer.plan.length} ${messages.steps} · ${answer.plan.map((p) => p.tool).join(', ')}`; details.open = false; } };
}

byId('ask').addEventListener('submit', guarded(async (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (!text || !conversation || send.disabled) return;
  log.querySelector('.starters')?.remove();
  question.value = '';
  send.disabled = true;
  stop.hidden = false;
  const steps = strip();
  const live = node('div', null, 'answer');
  log.append(node('div', text, 'asked'), steps.details, live);
  try {
    for await (const { name, data } of stream(`/v1/conversations/${conversation}/messages`, { text })) {
      if (name === 'tool.started') steps.started(data);
      else if (name === 'tool.progress') steps.progress(data);
      else if (name === 'tool.finished') steps.finished(data);
      else if (name === 'text.delta') live.append(node('p', data.text));
      else if (name === 'answer') { steps.close(data); live.replaceWith(written(data)); }
      else if (name === 'error') { steps.details.open = false; live.append(node('p', data.detail, 'error')); }
      log.scrollTop = log.scrollHeight;
    }
  } finally { send.disabled = false; stop.hidden = true; }
}));
stop.addEventListener('click', guarded(() => remove(`/v1/conversations/${conversation}/messages/current`)));
question.addEventListener('keydown', (event) => { if (event.key === 'Enter' && !event.shiftKey) { event.preventDefault(); byId('ask').requestSubmit(); } });
patient.addEventListener('change', guarded(choose));

const drop = byId('drop');
const files = byId('files');
// What a file doesn't say of itself, to be said here.
const asked = (ask) => {
  const item = node('li', `${ask.file}: ${messages.say} ${ask.missing.map((m) => messages.fields[m]).join(', ')}`);
  if (!ask.study_id) return item;
  const inputs = ask.missing.map((name) => Object.assign(node('input'), {
    name, type: name === 'study_date' ? 'date' : 'text', ariaLabel: messages.fields[name], placeholder: messages.fields[name] }));
  const save = node('button', messages.save);
  save.addEventListener('click', guarded(async () => {
    const said = Object.fromEntries(inputs.filter((i) => i.value).map((i) => [i.name, i.value]));
    try {
      const study = await patch(`/v1/studies/${ask.study_id}`, said);
      item.replaceWith(node('li', `${ask.file}: ${messages.saved}`));
      await patients(study.patient_id);
    } catch (error) { item.append(node('p', error.message, 'bad')); }
  }));
  item.append(...inputs, save);
  return item;
};
const take = guarded(async (chosen) => {
  const list = byId('uploads');
  list.replaceChildren(...[...chosen].map((f) => node('li', `${f.name} …`)));
  let done;
  try { done = await upload(chosen, patient.value); } catch (error) { list.replaceChildren(node('li', error.message, 'bad')); return; }
  list.replaceChildren(node('li', `${done.studies.length + done.records.length} ${messages.taken}`),
    ...done.rejected.map((r) => node('li', `${r.file}: ${messages.refused}. ${r.reason}`, 'bad')),
    ...done.conflicts.map((c) => node('li', `${c.file}: ${messages.contradicts}. ${c.reason}`, 'bad')),
    ...done.asks.map(asked));
  await patients(done.studies[0]?.patient_id ?? done.records[0]?.patient_id);
});
drop.addEventListener('click', () => files.click());
drop.addEventListener('keydown', (event) => { if (event.key === 'Enter' || event.key === ' ') files.click(); });
files.addEventListener('change', () => take(files.files));
drop.addEventListener('dragover', (event) => { event.preventDefault(); drop.classList.add('over'); });
drop.addEventListener('dragleave', () => drop.classList.remove('over'));
drop.addEventListener('drop', (event) => { event.preventDefault(); drop.classList.remove('over'); take(event.dataTransfer.files); });

document.addEventListener('keydown', (event) => {
  if (event.target.closest('input, textarea, select') || event.metaKey || event.ctrlKey) return;
  if (event.key === '/') { event.preventDefault(); question.focus(); }
  else if (event.key === '[') step(-1);
  else if (event.key === ']') step(1);
  else if (event.key === '.') stop.click();
});

guarded(async () => {
  const ready = await fetch('/readyz').then((r) => r.json());
  byId('planner').textContent = ready.planner.kind === 'llm' ? `${messages.planner_llm}: ${ready.planner.model}` : messages.planner_builtin;
  await patients('SAMPLE-GLIOMA');
})();
