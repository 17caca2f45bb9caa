// One question on its way: its steps, its text as it comes, its answer.
import { post, remove, stream } from '/web/lib/api.js';
import { asking, conversation, editing, gone, place, said, turned, turns, working } from '/web/lib/store.js';
import { branch, listed, reload, suggest } from '/web/lib/case.js';
import { t } from '/web/lib/words.js';

let number = 0;
let sending = false;
const opened = () => new Promise((done) => { const leave = conversation.subscribe((id) => { if (id) { done(); queueMicrotask(() => leave()); } }); });

export async function ask(text, images = []) {
  if (!text.trim() || working.value || sending) return;
  sending = true;
  try {
    if (!conversation.value) await opened(); // the case is still being opened
    if (editing.value) await branch(editing.value);
  } finally { sending = false; }
  number += 1;
  const key = `q${number}`;
  const at = place.value ? { series: place.value.series, point: place.value.point } : undefined;
  [asking.value, place.value, editing.value] = ['', null, null];
  turns.value = [...turns.value, { key, question: text, at, images, steps: [], text: '', state: 'working', began: performance.now() }];
  await listen(key, { text, ...(images.length ? { images } : {}), ...(at ? { at } : {}) });
}

async function listen(key, body) {
  const mine = conversation.value;
  const step = (data, change) => turned(key, (turn) => {
    const found = turn.steps.findLastIndex((s) => s.tool === data.tool && (data.arguments === undefined || JSON.stringify(s.arguments) === JSON.stringify(data.arguments)));
    return { steps: turn.steps.map((s, n) => (n === found ? { ...s, ...change } : s)) };
  });
  try {
    for await (const { name, data } of stream(`/v1/conversations/${mine}/messages`, body, (lost) => turned(key, { lost }))) {
      if (conversation.value !== mine) return;
      if (name === 'tool.started') turned(key, (turn) => ({ steps: [...turn.steps, { ...data, status: 'running', began: performance.now() }] }));
      else if (name === 'tool.progress') step(data, { done: data.done, total: data.total });
      else if (name === 'tool.finished') step(data, data);
      else if (name === 'text.delta') turned(key, (turn) => ({ text: turn.text + data.text }));
      else if (name === 'answer') turned(key, { answer: data, key: data.id, state: 'done', spent: (performance.now() - turns.value.find((x) => x.key === key).began) / 1000 });
      else if (name === 'error') turned(key, { state: 'failed', problem: { text: data.detail, hint: data.hint } });
    }
    gone.value = false;
  } catch (error) {
    if (error.status === undefined) gone.value = true;
    turned(key, { state: 'failed', problem: error.status ? { text: error.message, hint: error.hint } : { text: t('server_gone') } });
  }
  await Promise.all([suggest(), listed(), reload()]).catch(() => {});
}

export const stop = async () => {
  try { await remove(`/v1/conversations/${conversation.value}/messages/current`); } catch (error) { if (error.status !== 404) said.value = { text: error.message }; }
};

export async function confirm(turn, approve) {
  const answer = await post(`/v1/conversations/${conversation.value}/messages/current/confirm`, { approve });
  turned(turn.key, { answer, key: answer.id, state: 'done' });
  await reload();
}

export const rate = (turn, rating, correction) => post(`/v1/conversations/${conversation.value}/messages/${turn.key}/feedback`, { rating, ...(correction ? { correction } : {}) });
