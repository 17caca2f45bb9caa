// A chip: the kind of an evidence and its short name; hovering tells what it says, a click opens it.
import { html } from '/web/vendor/ui.js';
import { Icon, guarded } from '/web/lib/common.js';
import { ICONS, label, open } from '/web/lib/evidence.js';
import { chosen } from '/web/lib/store.js';
import { t } from '/web/lib/words.js';

export function Chip({ evidence }) {
  if (!evidence) return null;
  const name = label(evidence);
  return html`<button type="button" class="chip kind-${evidence.kind}" data-evidence=${evidence.id} aria-pressed=${chosen.value === evidence.href}
    aria-label="${t(`kinds.${evidence.kind}`)} ${evidence.id}: ${name}" onClick=${guarded(() => open(evidence))}>
    <${Icon} name=${ICONS[evidence.kind]} /><span>${name}</span><span class="peek" role="tooltip"><strong>[${evidence.id}] ${evidence.title}</strong>${evidence.statement}</span></button>`;
}
