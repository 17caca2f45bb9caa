"""What each source of a case says of the diagnosis, where they agree, and what the classification's own rules make of it."""

import re
from dataclasses import dataclass
from typing import Any

from knowledge.case import Case, kind_of
from knowledge.entities.library import organ_of
from knowledge.evidence import Fact, Kind, Origin, RuleRef
from knowledge.language import glossed, language_of
from knowledge.records.reading import certainty_of
from knowledge.records.reports import cut
from tools.base import Bench, Missing
from tools.conflicts import quoted
from tools.errors import ToolError
from tools.recorded import record_fact
from tools.rules import ApplyGuideline

DOCUMENT = "Consilium: sources of a case beside each other, version 1"
CLASSIFIED_BY = {"brain": "who_cns_2021_glioma", "liver": "li_rads_2018"}
"""Organ -> the classification whose rules make the integrated diagnosis, where the box has it."""
_GROUPS = {
    "glioma": r"\bglioma|\bglioblastoma|\bgbm\b|\bastrocytoma|\boligodendroglioma|\bependymoma", "meningioma": r"\bmeningioma", "metastasis": r"\bmetasta\w+|\bmets\b",
    "lymphoma": r"\blymphoma", "pituitary": r"\bpituitary (?:macro|micro)?-?adenoma|\bpitnet", "abscess": r"\babscess", "demyelination": r"\bdemyelinat\w+",
    "hepatocellular carcinoma": r"\bhcc\b|\bhepatocellular", "cholangiocarcinoma": r"\bcholangio\w+", "haemangioma": r"\bha?emangioma", "adenoma": r"\b(?:hepatocellular |hepatic )adenoma",
    "renal cell carcinoma": r"\brenal cell|\brcc\b", "oncocytoma": r"\boncocytoma", "angiomyolipoma": r"\bangiomyolipoma", "lung cancer": r"\bbronch\w+ carcinoma|\blung (?:cancer|adenocarcinoma|carcinoma)",
    "carcinoma": r"\b(?:ductal|lobular|papillary|medullary|invasive|prostate) (?:\w+ )?carcinoma|\b(?:breast|prostate|thyroid) cancer", "fibroadenoma": r"\bfibroadenoma",
    "cyst": r"\b(?:simple|bosniak i) cyst", "granuloma": r"\bgranuloma\b", "hamartoma": r"\bhamartoma",
}  # fmt: skip
"""Kinds of lesion as sources name them; a diffuse glioma by a report and a glioblastoma by tissue say the same as far as imaging goes."""


@dataclass(frozen=True)
class Saying:
    """What one source says: which kinds of lesion, how surely, and the fact."""

    source: str
    kinds: tuple[str, ...]
    sure: bool
    fact: Fact


def sayings(case: Case, organ: str, classified: Fact | None) -> list[Saying]:
    """Every source of the case that names a kind of lesion of `organ`: the classifier, reports by their kind, the record."""
    found = []
    if classified is not None and isinstance(classified.value, dict) and classified.value.get("label") in _GROUPS:
        label, share = classified.value["label"], 100 * classified.value["probability"]
        found.append(Saying(f"the image classifier ({share:.0f} %)", (label,), False, classified))
    for report in sorted(case.reports, key=lambda r: r.date or ""):
        about = organ_of(f"{report.title} {report.text[:300]}") or organ_of(report.text[:1500])
        if about != organ:
            continue
        language = language_of(report.text[:2000])
        for sentence in [s for s in cut(report.text) if s.part in ("IMPRESSION", "CONCLUSION", "DIAGNOSIS", "MICROSCOPY", "")]:
            english = glossed(sentence.text, language) if language != "en" else sentence.text
            told = [
                (n, certainty_of(english, m.start(), m.end())) for n, p in _GROUPS.items() if (m := re.search(p, english, re.I))
            ]
            kinds = tuple(n for n, c in told if c != "negated")
            if kinds:
                name = kind_of(report) or "report"
                found.append(Saying(f"the report {report.handle} of {report.date or 'no date'} ({name})", kinds, all(c == "affirmed" for _, c in told),
                                    quoted(report, sentence)))  # fmt: skip
    for item in case.items:
        kinds = tuple(n for n, p in _GROUPS.items() if re.search(p, item.name, re.I))
        if item.category == "condition" and kinds and item.status not in ("inactive", "refuted"):
            found.append(Saying(f"the record of {item.date or 'no date'}", kinds, True, record_fact(item, case)))
    return found


def beside_each_other(case: Case, organ: str, classified: Fact | None) -> tuple[Fact, list[Fact]] | None:
    """One fact of what each source says and whether they agree, with the facts behind it; None where fewer than two speak."""
    found = sayings(case, organ, classified)
    if len({s.source for s in found}) < 2:
        return None
    common = set.intersection(*(set(s.kinds) for s in found))
    words = "; ".join(f"{s.source}: {' or '.join(s.kinds)}{'' if s.sure else ', probable'}" for s in found)
    verdict = (
        f"They agree on {' and '.join(sorted(common))}." if common else "They don't agree; a reader has to settle which holds."
    )
    origins = {s.source: Origin(kind=str(s.fact.kind), statement=s.fact.statement, source=s.fact.source) for s in found}  # type: ignore[arg-type]
    value: dict[str, Any] = {"category": " or ".join(sorted(common)) or None, "recommendation": "", "values": {}, "checked": True, "agree": bool(common),
             "sources": [{"source": s.source, "kinds": list(s.kinds), "sure": s.sure} for s in found]}  # fmt: skip
    fact = Fact(kind=Kind.RULE, title="What each source says", statement=f"What each source says: {words}. {verdict}", value=value,
                source=RuleRef(rule=f"differential:{organ}", document=DOCUMENT, section="sources", inputs={s.source: " or ".join(s.kinds) for s in found},
                               origins=origins))  # fmt: skip
    return fact, [s.fact for s in found]


def integrated(bench: Bench, organ: str) -> tuple[list[Fact], list[Missing]]:
    """The classification's own rule on what the case states, and the tests that it lacks."""
    name = CLASSIFIED_BY.get(organ)
    if name is None or bench.case is None:
        return [], []
    try:
        reply = ApplyGuideline.bound(bench).reply({"guideline": name})
    except ToolError:
        return [], []
    rules = [f for f in reply.facts if f.kind is Kind.RULE]
    if not rules or not rules[0].value.get("category"):
        return [], list(reply.missing)
    return rules[:1], list(reply.missing)
