// Opens an evidence: its picture in the viewer, its words in the drawer.
import { blob, get } from '/web/api.js';
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

// The page's text with the passage marked, and in it the sentence that answers.
function sentence(page, [from, to]) {
  const pre = document.createElement('pre');
  const mark = document.createElement('mark');
  const passage = page.text.slice(page.start, page.end);
  mark.append(passage.slice(0, from), node('strong', passage.slice(from, to)), passage.slice(to));
  pre.append(page.text.slice(0, page.start), mark, page.text.slice(page.end));
  return pre;
}

async function picture(path, number) {
  const details = document.createElement('details');
  details.append(node('summary', `${messages.page} ${number}`));
  details.addEventListener('toggle', async () => {
    if (!details.open || details.querySelector('img')) return;
    const image = document.createElement('img');
    image.alt = `${messages.page} ${number}`;
    image.src = URL.createObjectURL(await blob(path));
    details.append(image);
  });
  return details;
}

// Each input of a rule with its unit and where it comes from; each missing one with what it would change.
function inputs(rule) {
  const table = document.createElement('table');
  for (const [name, value] of Object.entries(rule.inputs)) {
    const row = table.insertRow();
    const origin = rule.origins?.[name] ?? {};
    const shown = Array.isArray(value) ? value.join(', ') : value;
    row.append(node('th', name.replaceAll('_', ' ')), node('td', `${shown} ${rule.facts[name]?.unit === '1' ? '' : rule.facts[name]?.unit ?? ''}`));
    const from = node('td', origin.href ? '' : messages.origins[origin.kind] ?? origin.kind ?? '');
    if (origin.href) {
      const button = node('button', origin.statement, 'origin');
      button.addEventListener('click', () => show({ href: origin.href }));
      from.append(button);
    }
    row.append(from);
  }
  for (const name of rule.missing) {
    const row = table.insertRow();
    row.className = 'lacking';
    row.append(node('th', name.replaceAll('_', ' ')), node('td', messages.missing.toLowerCase()), node('td', rule.would_change?.[name] ?? ''));
  }
  return table;
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
    const { passage, page } = opened;
    parts.push(list([['document', passage.document], ['organisation', passage.organisation], ['version', passage.status === 'superseded' ? `${passage.version} (${messages.superseded})` : passage.version],
      ['date', passage.date], ['section', passage.section], ['page', passage.page], ['strength', passage.strength], ['source', passage.source], ['facts', opened.checked]]));
    if (opened.picture) parts.push(await picture(opened.picture, passage.page));
    if (page) parts.push(sentence(page, opened.sentence));
  } else if (opened.rule) {
    parts.push(list([['rule', `${opened.rule.title}, ${opened.rule.version}`], ['cited', `${opened.rule.document}: ${opened.rule.section}`]]), inputs(opened.rule));
  } else if (opened.record) {
    parts.push(list(opened.history.map((h) => [h.date ?? '', `${h.value ?? h.name} ${h.unit ?? ''}`])), list([['path', `${source.resource}.${source.path}`]]));
  }
  drawer.replaceChildren(...parts);
  drawer.querySelector('mark')?.scrollIntoView({ block: 'center' });
}
