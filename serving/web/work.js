// What a tool made and a person goes on with: a draft to edit and sign, a report that was checked, the picture of a teaching question.
import { blob, get, post, put } from '/web/api.js';
import { show } from '/web/evidence.js';
import { messages } from '/web/messages.js';

const drawer = document.getElementById('drawer');
const node = (tag, text, name) => { const made = document.createElement(tag); if (text) made.textContent = text; if (name) made.className = name; return made; };
const press = (text, work, name) => { const button = node('button', text, name); button.type = 'button'; button.addEventListener('click', work); return button; };
const PARTS = ['INDICATION', 'TECHNIQUE', 'COMPARISON', 'FINDINGS', 'IMPRESSION'];
const FORMS = { text: 'Text', pdf: 'PDF', docx: 'DOCX', fhir: 'FHIR', sr: 'DICOM SR', dicom_pdf: 'DICOM PDF' };

const chips = (ids, evidence) => ids.map((id) => {
  const one = evidence.find((e) => e.id === id);
  const label = one.kind === 'measurement' ? `${one.value} ${one.unit}` : messages.kinds[one.kind];
  const button = press(`${id} · ${label}`, async () => {
    const kept = [...drawer.childNodes];
    await show(one);
    drawer.prepend(press(messages.back, () => drawer.replaceChildren(...kept), 'back'));
  }, 'chip');
  button.title = one.statement;
  return button;
});

export const opener = (made) => press(`${messages.open[made.kind] ?? made.kind}: ${made.title}`, async () => {
  if (made.kind === 'draft') await draft(made.id);
  else if (made.kind === 'check') await check(made.id);
  document.querySelector('.panes').dataset.shown = 'view';
}, 'made');

export async function draft(id) {
  const shown = await get(`/v1/drafts/${id}`);
  const signed = shown.status === 'signed';
  const box = node('article', null, 'draft');
  box.append(node('h3', shown.title), node('p', shown.banner, signed ? 'signed' : 'unsigned'));
  const rows = [];
  const row = (sentence) => {
    const line = node('div', null, `line ${sentence.by}`);
    const words = node('textarea');
    words.value = sentence.text;
    words.rows = Math.max(1, Math.ceil(sentence.text.length / 70));
    words.readOnly = signed;
    words.ariaLabel = `${sentence.part}: ${messages.by[sentence.by]}`;
    const mine = { part: sentence.part, words, evidence: sentence.evidence, gone: false };
    rows.push(mine);
    const how = node('span', messages.by[sentence.by], 'how');
    words.addEventListener('input', () => { how.textContent = messages.by.reader; line.className = 'line reader'; });
    line.append(how, words, ...chips(sentence.evidence, shown.evidence));
    if (!signed) line.append(press('×', () => { mine.gone = true; line.remove(); }, 'take'));
    for (const problem of sentence.problems) line.append(node('p', `${messages.not_carried}: ${problem}`, 'bad'));
    return line;
  };
  for (const part of PARTS) {
    const section = node('section');
    section.append(node('h4', part));
    for (const sentence of shown.sentences.filter((s) => s.part === part)) section.append(row(sentence));
    if (!signed) section.append(press(messages.add_sentence, (event) => event.target.before(row({ part, text: '', by: 'reader', evidence: [], problems: [] })), 'add'));
    box.append(section);
  }
  const said = node('p', null, 'bad');
  said.setAttribute('role', 'alert');
  const trying = (work) => async () => { said.textContent = ''; try { await work(); } catch (error) { said.textContent = error.message; } };
  const kept = () => rows.filter((r) => !r.gone && r.words.value.trim()).map((r) => ({ part: r.part, text: r.words.value.trim(), evidence: r.evidence }));
  const bar = node('div', null, 'row');
  if (!signed) {
    const name = Object.assign(node('input'), { placeholder: messages.your_name, ariaLabel: messages.your_name });
    const save = () => put(`/v1/drafts/${id}`, { version: shown.version, sentences: kept() });
    bar.append(press(messages.save, trying(async () => { await save(); await draft(id); })), name,
      press(messages.sign, trying(async () => {
        const changed = JSON.stringify(kept()) !== JSON.stringify(shown.sentences.map((s) => ({ part: s.part, text: s.text, evidence: s.evidence })));
        const version = changed ? (await save()).version : shown.version;
        await post(`/v1/drafts/${id}/sign`, { name: name.value, version });
        await draft(id);
      }), 'primary'));
  }
  const out = node('div', null, 'row');
  for (const [form, label] of Object.entries(FORMS)) out.append(press(label, trying(async () => {
    const link = Object.assign(node('a'), { href: URL.createObjectURL(await blob(`/v1/drafts/${id}/export?form=${form}`)), download: `${shown.status}-${shown.template}.${{ text: 'txt', fhir: 'json', sr: 'dcm', dicom_pdf: 'dcm' }[form] ?? form}` });
    link.click();
  })));
  box.append(bar, said, out);
  drawer.replaceChildren(box);
}

export async function check(id) {
  const shown = await get(`/v1/checks/${id}`);
  const text = node('pre');
  let at = 0;
  // Issues come gravest first: where two overlap, the graver one is marked.
  const drawn = shown.issues.reduce((kept, i) => kept.some((k) => i.start < k.end && k.start < i.end) ? kept : [...kept, i], []);
  for (const issue of drawn.sort((a, b) => a.start - b.start)) {
    const mark = node('mark', shown.text.slice(issue.start, issue.end), issue.severity);
    mark.title = issue.message;
    text.append(shown.text.slice(at, issue.start), mark);
    at = issue.end;
  }
  text.append(shown.text.slice(at));
  const list = node('ol', null, 'issues');
  for (const issue of shown.issues) {
    const item = node('li', null, issue.severity);
    item.append(node('strong', `${issue.kind} · ${messages.severity[issue.severity]}`), node('p', issue.message));
    if (issue.suggestion) item.append(node('p', `${messages.suggested}: ${issue.suggestion}`, 'quiet'));
    item.append(...chips(issue.evidence, shown.evidence));
    list.append(item);
  }
  drawer.replaceChildren(node('h3', shown.title), shown.issues.length ? list : node('p', messages.no_issue), text);
}

export async function picture(path) {
  const image = Object.assign(node('img', null, 'teaching'), { alt: messages.teaching_picture });
  image.src = URL.createObjectURL(await blob(path));
  return image;
}

export async function followUps(patient, list) {
  const found = await get(`/v1/patients/${encodeURIComponent(patient)}/follow-ups`);
  list.replaceChildren(...found.filter((f) => f.status !== 'done').map((f) => {
    const item = node('li', null, f.status);
    const what = `${f.modalities.join('/') || messages.examination} ${f.body_part.toLowerCase()}`.trim();
    item.append(node('time', f.due ?? '—'), `${what}: ${messages.status[f.status]}`, node('p', `“${f.sentence}”`, 'quiet'));
    return item;
  }));
  list.previousElementSibling.hidden = list.children.length === 0;
}
