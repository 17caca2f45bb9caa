// Makes serving/web/vendor anew from the packages in package.json: `make web-vendor`.
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';

const packages = JSON.parse(readFileSync('package.json', 'utf8')).dependencies;
const from = (name, path) => `node_modules/${name}/${path}`;
execFileSync('node_modules/.bin/esbuild', ['ui.js', '--bundle', '--minify', '--format=esm', '--outfile=../web/vendor/ui.js'], { stdio: 'inherit' });
copyFileSync(from('@niivue/niivue', 'dist/niivue.umd.js'), '../web/vendor/niivue.umd.js');

const symbols = readFileSync('icons.txt', 'utf8').split(/\s+/).filter(Boolean).map((entry) => {
  const [id, name = id] = entry.split('=');
  const path = from('lucide-static', `icons/${name}.svg`);
  if (!existsSync(path)) throw new Error(`lucide has no icon ${name}`);
  const inner = readFileSync(path, 'utf8').replace(/<!--[^]*?-->/g, '').replace(/^[^]*?<svg[^>]*>/, '').replace(/<\/svg>[^]*$/, '').replace(/\s*\n\s*/g, '');
  return `<symbol id="${id}" viewBox="0 0 24 24">${inner}</symbol>`;
});
writeFileSync('../web/vendor/icons.svg', `<svg xmlns="http://www.w3.org/2000/svg">${symbols.join('\n')}</svg>\n`);

const licences = Object.keys(packages).filter((n) => n !== 'esbuild').map((name) => {
  const { version, license } = JSON.parse(readFileSync(from(name, 'package.json'), 'utf8'));
  const file = ['LICENSE', 'LICENSE.md', 'license', 'LICENSE.txt'].map((f) => from(name, f)).find(existsSync);
  return `## ${name} ${version} (${license})\n\n${file ? readFileSync(file, 'utf8').trim() : ''}\n`;
});
writeFileSync('../web/vendor/LICENCES.md', `# What is shipped from others\n\nMade by \`make web-vendor\`.\n\n${licences.join('\n')}`);
