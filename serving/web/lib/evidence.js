// What an evidence is called in short, and how it is opened.
import { get } from '/web/lib/api.js';
import { chosen, drawer, folded, pane } from '/web/lib/store.js';
import { active, layout, show } from '/web/lib/viewer.js';
import { quantity, t } from '/web/lib/words.js';

export const ICONS = { finding: 'scan-search', measurement: 'ruler', report: 'file-text', record: 'clipboard-list', guideline: 'book-open', rule: 'calculator' };
const WAYS = { measurement: 'measured', finding: 'seen', report: 'quoted', record: 'quoted', guideline: 'recommended', rule: 'computed' };
const READ = { archive: 'header', read_annotations: 'drawn' };
// How a fact is known: what its statement looks like, and the word for it. What a header or somebody's outline says was seen by no model.
export function way(evidence) {
  const read = evidence?.kind === 'finding' ? READ[evidence.source.model] : undefined;
  return read ? { look: 'quoted', word: `ways.${read}` } : { look: WAYS[evidence?.kind], word: `ways.${evidence?.kind}` };
}

const short = (text, most = 26) => (text.length > most ? `${text.slice(0, most - 1).trimEnd()}…` : text);
export function label(evidence) {
  const { kind, value, unit, title, source } = evidence;
  if (kind === 'measurement') return quantity(value, unit);
  if (kind === 'record') return short(`${title}${typeof value === 'number' || typeof value === 'string' ? ` ${quantity(value, unit ?? '')}` : ''}`);
  if (kind === 'guideline') return short([source.document?.split(/[ :,]/)[0], source.date?.slice(0, 4), source.page ? `${t('page_short')} ${source.page}` : ''].filter(Boolean).join(' '));
  if (kind === 'rule') return value?.category ? `${short(title, Math.max(12, 30 - String(value.category).length))}: ${value.category}` : short(title, 32);
  if (kind === 'finding' && typeof value?.probability === 'number') return short(`${value.label} ${Math.round(100 * value.probability)} %`);
  if (kind === 'report') return short(source.section ? source.section.toLowerCase() : t('kinds.report'));
  return short(title);
}

let asked = 0;
export async function open(evidence) {
  asked += 1;
  const mine = asked;
  const full = await get(evidence.href);
  if (mine !== asked) return;
  chosen.value = evidence.href;
  drawer.value = { kind: 'evidence', full, back: drawer.value?.kind === 'draft' || drawer.value?.kind === 'check' ? drawer.value : drawer.value?.back ?? null };
  folded.value = { ...folded.value, drawer: false };
  pane.value = 'view';
  const { opened, source } = full;
  if (opened.png) {
    const two = opened.beside?.length > 0;
    if (two) layout.value = 'two';
    await show(opened.study_id, opened.series_id, { frame: opened.frame, line: source.line, box: source.box, mask: source.mask?.split('/').pop(),
      label: full.kind === 'measurement' && !two ? quantity(full.value, full.unit) : null }, ...(two ? [0] : []));
    if (two) await beside(opened.beside.at(-1));
  }
}
// The same place on another study, in the second stack.
export async function beside(one) {
  if (!one.png) return;
  layout.value = 'two';
  await show(one.study_id, one.series_id, { frame: one.frame, line: one.line, box: one.box, mask: one.mask?.split('/').pop(), label: null }, 1);
  active.value = 0;
}
export const openById = async (id) => open({ href: `/v1/evidence/${id}` });
