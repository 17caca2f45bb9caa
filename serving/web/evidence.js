// Opens an evidence: its picture in the viewer, its words in the drawer.
import { get } from '/web/api.js';
import { open } from '/web/viewer.js';
import { messages } from '/web/messages.js';

const drawer = document.getElementById('drawer');
const node = (tag, text, name) => { const made = document.createElement(tag); made.textContent = text ?? ''; if (name) made.className = name; return made; };

function list(rows) {
  const dl = document.createElement('dl');
  for (const [name, value] of rows) if (value !== null && value !== undefined && value !== '') dl.append(node('dt', name), node('dd', String(value)));
  return dl;
}

function marked(text, start, end) {
  const pre = document.createElement('pre');
  pre.append(text.slice(0, start), node('mark', text.slice(start, end)), text.slice(end));
  return pre;
}

export async function show(evidence) {
  const full = await get(evidence.href);
  const { opened, source } = full;
  const parts = [node('h3', `[${full.id}] ${full.title}`), node('p', full.statement)];
  if (opened.png) {
    await open(opened.study_id, opened.series_id, { frame: opened.frame, box: source.box, line: source.line, mask: source.mask?.split('/').pop() });
    parts.push(list([['series', opened.title], ['slice', opened.frame + 1], ['model', `${source.model} ${source.model_version}`]]));
  } else if (opened.report) {
    parts.push(marked(opened.report.text, source.start, source.end));
  } else if (opened.passage) {
    parts.push(list([['document', opened.passage.document], ['organisation', opened.passage.organisation], ['version', opened.passage.version],
      ['date', opened.passage.date], ['section', opened.passage.section], ['strength', opened.passage.strength], ['source', opened.passage.source], ['facts', opened.checked]]));
  } else if (opened.rule) {
    const inputs = Object.entries(opened.rule.inputs).map(([k, v]) => [k, `${v} ${opened.rule.facts[k]?.unit ?? ''}`]);
    parts.push(list([['rule', `${opened.rule.title}, ${opened.rule.version}`], ...inputs, ...opened.rule.missing.map((m) => [m, messages.missing.toLowerCase()])]));
  } else if (opened.record) {
    parts.push(list(opened.history.map((h) => [h.date ?? '', `${h.value ?? h.name} ${h.unit ?? ''}`])), list([['path', `${source.resource}.${source.path}`]]));
  }
  drawer.replaceChildren(...parts);
  drawer.querySelector('mark')?.scrollIntoView({ block: 'center' });
}
