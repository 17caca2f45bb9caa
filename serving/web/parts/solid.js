// Planes and a solid view of one series by niivue, which is fetched when it is first asked for.
import { html, useEffect, useRef, useState } from '/web/vendor/ui.js';
import { headers } from '/web/lib/api.js';
import { opacity } from '/web/lib/viewer.js';
import { t } from '/web/lib/words.js';

// Voxels along an axis that are fetched: a graphics card draws 512 at once, a processor in its stead a good deal fewer.
const most = () => {
  const gl = document.createElement('canvas').getContext('webgl2');
  const info = gl?.getExtension('WEBGL_debug_renderer_info');
  const drawsBy = info ? gl.getParameter(info.UNMASKED_RENDERER_WEBGL) : '';
  const card = gl && gl.getParameter(gl.MAX_3D_TEXTURE_SIZE) >= 512 && !/swiftshader|llvmpipe|software/i.test(drawsBy);
  gl?.getExtension('WEBGL_lose_context')?.loseContext();
  return card ? 512 : 256;
};
let atMost = null;
let library = null;
const niivue = () => {
  library ??= new Promise((resolve, reject) => {
    const script = Object.assign(document.createElement('script'), { src: '/web/vendor/niivue.umd.js' });
    script.addEventListener('load', () => resolve(window.niivue));
    script.addEventListener('error', () => reject(new TypeError('niivue')));
    document.head.append(script);
  });
  return library;
};

const fetched = async (path) => {
  const response = await fetch(path, { headers: headers() });
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  return response.arrayBuffer();
};

export function Solid({ pane, kind }) {
  const canvas = useRef(null);
  const made = useRef(null);
  const [state, setState] = useState('coming');
  atMost ??= most();
  const step = pane ? Math.ceil(Math.max(pane.shown.columns, pane.shown.rows, pane.shown.frames) / atMost) : 1;
  const key = pane && `${pane.study.id}/${pane.series.id}/${pane.masks.filter((m) => m.on).map((m) => m.name)}`;
  useEffect(() => {
    let here = true;
    if (!pane) return undefined;
    setState('coming');
    (async () => {
      const { Niivue, NVImage, SLICE_TYPE } = await niivue();
      const base = `/v1/studies/${pane.study.id}/series/${encodeURIComponent(pane.series.id)}`;
      const masks = pane.masks.filter((m) => m.on);
      const [volume, ...labels] = await Promise.all([fetched(`${base}/volume.nii.gz?at_most=${atMost}`), ...masks.map((m) => fetched(`${base}/masks/${encodeURIComponent(m.name)}`))]);
      if (!here) return;
      const nv = made.current ?? new Niivue({ backColor: [0, 0, 0, 1], show3Dcrosshair: true, isColorbar: false, loadingText: '', dragAndDropEnabled: false, isOrientCube: true });
      if (!made.current) { await nv.attachToCanvas(canvas.current); made.current = nv; }
      for (const old of [...nv.volumes]) nv.removeVolume(old);
      nv.addVolume(await NVImage.loadFromUrl({ url: volume, name: 'volume.nii.gz', colormap: 'gray' }));
      for (const [k, data] of labels.entries()) nv.addVolume(await NVImage.loadFromUrl({ url: data, name: `mask${k}.nii.gz`, colormap: 'warm', opacity: Math.max(0.3, opacity.value), cal_min: 0.5, cal_max: 4 }));
      nv.setSliceType(kind === 'solid' ? SLICE_TYPE.RENDER : SLICE_TYPE.MULTIPLANAR);
      setState('there');
    })().catch((error) => { if (here) setState(error.message || 'failed'); });
    return () => { here = false; };
  }, [key]);
  useEffect(() => {
    if (made.current && window.niivue) made.current.setSliceType(kind === 'solid' ? window.niivue.SLICE_TYPE.RENDER : window.niivue.SLICE_TYPE.MULTIPLANAR);
  }, [kind]);
  return html`<div class="solid" data-state=${state}><canvas ref=${canvas} id="solid" tabindex="0" aria-label=${t(`layouts.${kind}`)}></canvas>
    ${step > 1 && html`<div class="corner bottom left"><span class="caution-text">${t('thinned', { n: step })}</span></div>`}
    ${state === 'coming' && html`<p class="nothing" role="status">${t('loading')}</p>`}
    ${!['coming', 'there'].includes(state) && html`<p class="nothing" role="alert">${t('no_solid')} (${state})</p>`}</div>`;
}
