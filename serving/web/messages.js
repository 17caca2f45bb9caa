// Every string of the page.
export const messages = {
  research: 'Research use only. Not a medical device.',
  patient: 'Patient', timeline: 'Timeline', drop: 'Drop DICOM, NIfTI, NRRD, pictures, reports, FHIR, or a zip, tar or CD image of them here, or click',
  no_image: 'No image is open.', mask: 'Outline', drawer_empty: 'Open an evidence chip to see its source.',
  ask_here: 'Ask about this case …', send: 'Ask', stop: 'Stop', theme: 'Light or dark',
  tab_case: 'Case', tab_view: 'Images', tab_chat: 'Chat',
  no_key: 'This page needs a key. Open the chat link that the server printed when it started.',
  no_patients: 'The archive is empty. Drop files at the left, or start the server with --sample.',
  made_up: 'Sample case: the report and the record were made up by the developers; the images are real (TCGA, CC BY 3.0).',
  try: 'Questions that fit this case', working: 'working', done: 'done', steps: 'steps', missing: 'Missing', urgent: 'look at this first', confirm_ask: 'This changes something. Shall it be done?', confirm_yes: 'Do it', confirm_no: 'Leave it', left_out: 'Left out', conflict: 'The sources disagree',
  with_it: 'With it', superseded: 'superseded', page: 'page', origins: { question: 'from the question', patient: 'from the archive', report: 'from a report', record: 'from the record', measurement: 'measured' }, taken: 'taken', refused: 'refused', contradicts: 'contradicts', say: 'say', save: 'Save', saved: 'saved',
  fields: { patient_id: 'the patient', study_date: 'the date', modality: 'the modality' }, server_gone: 'The server does not answer. What is on the screen stays; ask again when it runs.',
  planner_builtin: 'built-in planner, no language model', planner_llm: 'language model', stopped: 'Stopped.',
  kinds: { finding: 'image', measurement: 'measure', report: 'report', record: 'record', guideline: 'guideline', rule: 'rule' },
  ways: { finding: 'seen by a model', measurement: 'measured', report: 'quoted', record: 'from the record', guideline: 'recommended', rule: 'computed' },
  followups: 'Follow-ups that reports recommend', examination: 'examination', status: { overdue: 'overdue', due: 'due', undated: 'no date was named', done: 'done' },
  open: { draft: 'Open the draft', check: 'Open the checked report' }, by: { evidence: 'from evidence', reader: 'the reader’s words', open: 'to be completed' },
  back: 'Back', add_sentence: 'Add a sentence', your_name: 'Your name', sign: 'Sign', not_carried: 'Its evidence doesn’t carry this', suggested: 'Suggested', no_issue: 'No issue was found.',
  severity: { critical: 'critical', major: 'major', minor: 'minor' }, teaching_picture: 'Picture of the teaching question', unchecked: 'facts await a check',
  starters: ['What do you see on this MRI?', 'How big is the tumour, in mL and mm?', 'What did the last report say about the left ventricle?', 'Is her kidney function good enough for gadolinium?'],
};
export const fill = (root) => {
  for (const node of root.querySelectorAll('[data-text]')) node.textContent = messages[node.dataset.text];
  for (const node of root.querySelectorAll('[data-placeholder]')) node.placeholder = messages[node.dataset.placeholder];
  for (const node of root.querySelectorAll('[data-label]')) { node.ariaLabel = messages[node.dataset.label]; node.textContent = '◐'; }
};
