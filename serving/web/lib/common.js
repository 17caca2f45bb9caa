// Small pieces that every part uses.
import { html, useEffect, useRef, useState } from '/web/vendor/ui.js';
import { blob } from '/web/lib/api.js';
import { gone, said } from '/web/lib/store.js';
import { t } from '/web/lib/words.js';

export const Icon = ({ name }) => html`<svg class="icon" aria-hidden="true"><use href=${`/web/vendor/icons.svg#${name}`} /></svg>`;

export const Button = ({ icon, label, text, ...rest }) => html`<button type="button" aria-label=${text ? undefined : label} title=${label} ...${rest}>
  ${icon && html`<${Icon} name=${icon} />`}${text && html`<span>${text}</span>`}</button>`;

// Work that may fail: its problem is told in the banner, with what to do.
export const guarded = (work) => async (...args) => {
  try {
    const result = await work(...args);
    gone.value = false;
    return result;
  } catch (error) {
    if (error.name === 'AbortError') return undefined;
    if (error.status === undefined && !(error instanceof TypeError)) throw error;
    if (error.status === undefined) gone.value = true;
    else said.value = error.status === 401 ? { text: t('no_key') } : { text: error.message, hint: error.hint };
    return undefined;
  }
};

// A picture that needs the key.
export function Picture({ path, alt, ...rest }) {
  const [url, setUrl] = useState(null);
  useEffect(() => {
    let mine = null;
    let here = true;
    blob(path).then((found) => { if (here) { mine = URL.createObjectURL(found); setUrl(mine); } }, () => {});
    return () => { here = false; if (mine) URL.revokeObjectURL(mine); };
  }, [path]);
  return url ? html`<img src=${url} alt=${alt} ...${rest} />` : html`<span class="waiting" role="img" aria-label=${alt}></span>`;
}

export const download = (content, name) => {
  const link = Object.assign(document.createElement('a'), { href: URL.createObjectURL(content), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
};

// A new question goes to the top, so that its answer is read from the beginning.
export function useNewest(many) {
  const ref = useRef(null);
  useEffect(() => { const turns = ref.current.querySelectorAll('.turn'); if (turns.length) ref.current.scrollTop = turns[turns.length - 1].offsetTop - ref.current.offsetTop - 12; }, [many]);
  return ref;
}

export const readable = (name) => name.replaceAll('_', ' ');
