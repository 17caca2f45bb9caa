// What the page knows. Parts read these signals and are drawn anew when they change.
import { computed, signal } from '/web/vendor/ui.js';

const kept = (name, otherwise) => {
  let value = otherwise;
  try { value = JSON.parse(localStorage.getItem(`consilium.${name}`)) ?? otherwise; } catch { /* a value of another version */ }
  const made = signal(value);
  made.subscribe((now) => localStorage.setItem(`consilium.${name}`, JSON.stringify(now)));
  return made;
};

export const theme = kept('theme', 'dark');
export const language = kept('language', null);
export const columns = kept('columns', { case: 260, chat: 480, drawer: 280 });
export const folded = kept('folded', { case: false, drawer: false });

export const ready = signal(null);
export const session = signal(null);
export const may = (act) => session.value?.may.includes(act) ?? true;
export const patients = signal(null);
export const patient = signal(null);
export const timeline = signal([]);
export const studies = signal([]);
export const followUps = signal([]);
export const uploads = signal([]);
export const history = signal([]);

export const conversation = signal(null);
export const alone = signal(null);
export const turns = signal([]);
export const suggestions = signal([]);
export const place = signal(null);
export const editing = signal(null);
export const asking = signal('');

export const pane = signal('chat');
export const drawer = signal(null);
export const chosen = signal(null);
export const palette = signal(false);
export const help = signal(false);
export const said = signal(null);
export const gone = signal(false);

export const working = computed(() => turns.value.some((t) => t.state === 'working'));
export const turned = (key, change) => { turns.value = turns.value.map((t) => (t.key === key ? { ...t, ...(typeof change === 'function' ? change(t) : change) } : t)); };
