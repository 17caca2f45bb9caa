// Run by node: the TypeScript SDK's client lists our tools, asks, and opens an evidence; prints what it saw as JSON.
// Arguments: folder of node_modules, URL, key.
import { createRequire } from 'node:module';

const [modules, url, key] = process.argv.slice(2);
const require = createRequire(`${modules}/x.js`);
const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');

const connect = async (secret) => {
  const client = new Client({ name: 'interop', version: '1' });
  await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers: { Authorization: `Bearer ${secret}` } } }));
  return client;
};
let refused = '';
try { await connect('ck_wrong'); } catch (error) { refused = String(error.code ?? error.message); }
const client = await connect(key);
let progress = 0;
const tools = (await client.listTools()).tools.map((t) => t.name);
const answer = await client.callTool({ name: 'ask', arguments: { question: 'How big is the tumour?', patient_id: 'SAMPLE-GLIOMA' } }, undefined,
  { onprogress: () => { progress += 1; }, timeout: 110000 });
const link = answer.content.find((c) => c.type === 'resource_link');
const evidence = (await client.readResource({ uri: link.uri })).contents[0].text;
await client.close();
console.log(JSON.stringify({ tools, answer: answer.content[0].text, progress, evidence, refused }));
