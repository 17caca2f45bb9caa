"""Emergencies that a report states: they are put before anything else."""

import re
from functools import lru_cache

from knowledge.case import Case
from knowledge.evidence import Fact
from knowledge.language import glossed, language_of
from knowledge.records.reading import certainty_of, read
from knowledge.records.reports import cut
from tools.conflicts import quoted

# What this project's specification names (herniation, tension, cord compression), and findings of the same kind: each threatens life or
# function within hours. A reader decides; nothing is graded here.
_FINDINGS = re.compile(
    r"\b(?:transtentorial|uncal|subfalcine|tonsillar|cerebellar|brain) herniation|\bherniation of the (?:brain|uncus|tonsils|cerebell)|\btension pneumothorax|"
    r"\b(?:spinal )?cord compression|\bcompression of the (?:spinal )?cord|\bcauda equina (?:syndrome|compression)|\b(?:acute|obstructive) hydrocephalus|"
    r"\b(?:acute|active) (?:intracranial |intracerebral |subdural |epidural |arterial )?(?:ha?emorrhage|bleeding|ha?ematoma)|\bpulmonary embol|\baortic (?:dissection|rupture)|"
    r"\bfree (?:intraperitoneal )?air\b|\bpneumoperitoneum|\bbowel perforation|\b(?:cardiac|pericardial) tamponade|\bsuperior vena cava (?:obstruction|syndrome)",
    re.I,
)


def urgent(case: Case) -> list[Fact]:
    """Sentences of the newest report that affirm an emergency, word for word."""
    found = []
    newest = max((r.date or "" for r in case.reports), default="")
    for report in [r for r in case.reports if (r.date or "") == newest]:
        language = language_of(report.text[:2000])
        for sentence in cut(report.text):
            if sentence.part in ("INDICATION", "TECHNIQUE", "COMPARISON"):
                continue
            if emergency(sentence.text, language):
                found.append(quoted(report, sentence))
    return found


@lru_cache(maxsize=4096)
def emergency(text: str, language: str) -> bool:
    """True for a sentence that affirms an emergency, with or without doubt."""
    if read(text).certainty == "negated":
        return False
    english = glossed(text, language)
    return any(certainty_of(english, m.start(), m.end()) != "negated" for m in _FINDINGS.finditer(english))
