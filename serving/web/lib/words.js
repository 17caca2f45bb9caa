// The page's words in the reader's language, with the way it writes numbers.
import { computed } from '/web/vendor/ui.js';
import { language } from '/web/lib/store.js';
import de from '/web/words/de.js';
import en from '/web/words/en.js';
import es from '/web/words/es.js';
import fr from '/web/words/fr.js';
import zh from '/web/words/zh.js';

export const LANGUAGES = { en: 'English', zh: '中文', de: 'Deutsch', es: 'Español', fr: 'Français' };
const all = { en, de, es, fr, zh };
const own = (navigator.languages ?? ['en']).map((l) => l.slice(0, 2)).find((l) => l in all) ?? 'en';
export const spoken = computed(() => (language.value in all ? language.value : own));
const found = (words, name) => name.split('.').reduce((inside, part) => inside?.[part], words);
// A text of the catalogue, with its values put in; [one, other] where the number `n` decides.
export const t = (name, values = {}) => {
  const given = found(all[spoken.value], name) ?? found(en, name);
  const text = Array.isArray(given) ? given[new Intl.PluralRules(spoken.value).select(values.n) === 'one' ? 0 : given.length - 1] : given;
  return typeof text === 'string' ? text.replace(/\{(\w+)\}/g, (_, k) => values[k] ?? '') : text;
};
export const has = (name) => found(en, name) !== undefined;
// UCUM as people write it.
const written = (unit) => unit.replace(/^a$/, t('years')).replace(/\{1\.73_m2\}/, '1.73 m²').replace(/(?<=m)[23]$/, (n) => '²³'[n - 2]).replace(/\bu(?=(mol|g|L|U|m)\b)/g, 'µ').replace(/10\*(\d+)/g, (_, n) => `10${[...n].map((d) => '⁰¹²³⁴⁵⁶⁷⁸⁹'[d]).join('')}`).replace(/[{}[\]]/g, '');
const THIN = '\u202f';
export const quantity = (value, unit) => `${typeof value === 'number' ? new Intl.NumberFormat(spoken.value, { maximumSignificantDigits: 4, useGrouping: false }).format(value) : value}${unit && unit !== '1' ? THIN + written(unit) : ''}`;
export const seconds = (s) => `${new Intl.NumberFormat(spoken.value, { maximumFractionDigits: 1, minimumFractionDigits: 1 }).format(s)}${THIN}s`;
