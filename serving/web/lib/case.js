// The patient, the case's parts in time, and the conversation about it.
import { get, patch, post, remove, upload } from '/web/lib/api.js';
import { alone, asking, conversation, drawer, editing, followUps, history, may, pane, patient, patients, place, said, studies, suggestions, timeline, turns, uploads } from '/web/lib/store.js';
import { spoken, t } from '/web/lib/words.js';
import { show } from '/web/lib/viewer.js';

const SAMPLE = 'SAMPLE-GLIOMA';
export const madeUp = (id) => id === SAMPLE;
const of = (id, rest) => `/v1/patients/${encodeURIComponent(id)}/${rest}`;

// What was open in this tab before the page was loaded again. Like the key it stays in the tab.
const LAST = 'consilium.last';
export const last = () => { try { return JSON.parse(sessionStorage.getItem(LAST)) ?? []; } catch { return []; } };
export const remember = () => { if (conversation.value) sessionStorage.setItem(LAST, JSON.stringify([patient.value, conversation.value])); };

export async function refresh(wanted, again = null) {
  patients.value = await get('/v1/patients');
  const ids = patients.value;
  const next = ids.includes(wanted) ? wanted : ids.includes(SAMPLE) ? SAMPLE : ids[0];
  if (next) await choose(next, next === wanted ? again : null);
}

// What the case holds now; the conversation goes on.
export async function reload() {
  const id = patient.value;
  const [entries, found, due] = await Promise.all([get(of(id, 'timeline')), get(`/v1/studies?patient_id=${encodeURIComponent(id)}`), get(of(id, 'follow-ups'))]);
  if (patient.value !== id) return;
  [timeline.value, studies.value, followUps.value] = [entries, found, due.filter((f) => f.status !== 'done')];
}

export async function choose(id, again = null) {
  [patient.value, conversation.value] = [id, null]; // nothing is asked of the patient before
  [timeline.value, studies.value, followUps.value, drawer.value] = [[], [], [], null];
  const shown = async () => {
    await reload();
    if (patient.value !== id) return;
    const [newest] = studies.value.filter((s) => s.series.some((q) => q.shape.length === 3)).sort((a, b) => (b.date ?? '').localeCompare(a.date ?? ''));
    if (newest) await show(newest.id);
  };
  await Promise.all([again ? resume(again).catch(() => begin()) : begin(), shown()]);
  await listed();
}

// A new conversation about the patient, or about one study alone. It is kept once something is asked.
export async function begin(study = null) {
  const whose = patient.value;
  const opened = await post('/v1/conversations', study ? { study_ids: [study.id] } : { patient_id: whose });
  if (patient.value !== whose) return; // another case was chosen meanwhile
  if (opened.notes?.length) said.value = { text: opened.notes.join(' '), calm: true };
  alone.value = study;
  [conversation.value, turns.value, suggestions.value, place.value, editing.value] = [opened.id, [], [], null, null];
  await suggest();
}

export async function suggest() {
  if (conversation.value) suggestions.value = await get(`/v1/conversations/${conversation.value}/suggestions?language=${spoken.value}`);
}

export async function listed(query = '') {
  if (patient.value) history.value = await get(`/v1/conversations?patient_id=${encodeURIComponent(patient.value)}&asked=true&q=${encodeURIComponent(query)}`);
}

export async function resume(id) {
  const found = await get(`/v1/conversations/${id}`);
  if (found.patient_id && found.patient_id !== patient.value) {
    patient.value = found.patient_id;
    await reload();
  }
  alone.value = null;
  conversation.value = id;
  turns.value = found.messages.map((m) => ({ key: m.id, question: m.question, answer: m.answer, steps: m.answer.plan, state: 'done' }));
  [place.value, editing.value] = [null, null];
  pane.value = 'chat';
  await suggest();
}

export async function forget(id) {
  await remove(`/v1/conversations/${id}`);
  if (conversation.value === id) await begin();
  await listed();
}

// Put another question in the place of one: a new conversation with what was said before it.
export async function branch(turn) {
  const made = await post(`/v1/conversations/${conversation.value}/branch`, { before: turn.key });
  await resume(made.id);
}

const walk = async (entry, path = '') => {
  if (entry.isFile) return [await new Promise((resolve, reject) => { entry.file((file) => { file.path = path + file.name; resolve(file); }, reject); })];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (!some.length) break;
    for (const one of some) found.push(...await walk(one, `${path}${entry.name}/`));
  }
  return found;
};

// Folders too: each file in them with its path.
export const dropped = async (transfer) => {
  const entries = [...transfer.items].map((i) => i.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  return (await Promise.all(entries.map((e) => walk(e)))).flat();
};

let number = 0;
export async function take(files, fields = {}) {
  if (!files.length) return;
  if (!may('add_files')) { said.value = { text: t('read_only') }; return; }
  number += 1;
  const key = number;
  const rows = [...files].map((f) => ({ name: f.path || f.webkitRelativePath || f.name, size: f.size, state: 'sending', share: 0 }));
  const put = (change) => { uploads.value = uploads.value.map((u) => (u.key === key ? { ...u, ...change } : u)); };
  uploads.value = [{ key, rows, share: 0, state: 'sending' }, ...uploads.value];
  const whole = rows.reduce((sum, r) => sum + r.size, 0) || 1;
  try {
    // The open patient's, where a file doesn't say whose it is.
    const done = await upload(files, { patient_id: patient.value, ...fields }, (loaded) => {
      let left = loaded;
      const shown = rows.map((r) => { const mine = Math.min(r.size, left); left -= mine; return { ...r, share: r.size ? mine / r.size : 1, state: mine >= r.size ? 'checking' : 'sending' }; });
      put({ rows: shown, share: Math.min(1, loaded / whole), state: loaded >= whole ? 'checking' : 'sending' });
    });
    const refused = new Map(done.rejected.map((r) => [r.file, r.reason]));
    put({ share: 1, state: 'done', done, rows: rows.map((r) => ({ ...r, share: 1, state: refused.has(r.name) ? 'refused' : 'taken', reason: refused.get(r.name) })) });
    const owner = done.studies[0]?.patient_id ?? done.records[0]?.patient_id ?? patient.value;
    patients.value = await get('/v1/patients');
    if (owner !== patient.value) await choose(owner);
    else {
      await reload();
      await suggest();
      if (done.studies[0]?.series.some((q) => q.shape.length === 3)) await show(done.studies[0].id);
    }
  } catch (error) {
    put({ state: 'failed', reason: error.status ? error.message : t('server_gone'), hint: error.hint });
  }
}

export const describe = async (study, given) => {
  const saved = await patch(`/v1/studies/${study}`, given);
  patients.value = await get('/v1/patients');
  if (saved.patient_id !== patient.value) await choose(saved.patient_id);
  else await reload();
};

export const propose = (text) => { asking.value = text; pane.value = 'chat'; document.getElementById('question')?.focus(); };
