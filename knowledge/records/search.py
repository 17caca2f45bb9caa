"""Find sentences of reports and values of records that speak of what is asked; nothing where none does."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from knowledge.guidelines.minilm import MiniLM
from knowledge.language import glossed, language_of
from knowledge.records.model import RecordItem, Report
from knowledge.records.reading import read, sides, sizes
from knowledge.records.reports import Sentence, cut

SIMILAR = 0.62
"""Cosine above which half of the asked words are enough (tuned on the sample report)."""
RELATED = 0.30
"""Cosine below which shared words are taken for chance."""
SECTIONS = ("INDICATION", "TECHNIQUE", "COMPARISON", "FINDINGS", "IMPRESSION", "CONCLUSION", "DIAGNOSIS", "RECOMMENDATION")
"""Sections that can be asked for as a whole ("What was the impression?"); the newest report comes first."""
PARTLY = 0.5
"""Share of the asked words that a similar sentence has to contain: meaning alone brings in its neighbours."""
SHARED = 0.6
"""Share of the asked words that a sentence has to contain."""

_STOP = frozenset(
    re.findall(
        r"\w+",
        "a about above all an and any anything april are as at august be been but by can could ct december describe "
        "described did do does february find findings for found from had has have he her him his how i image imaging in "
        "into is it its january july june last latest march may me mention mentioned most mri my new november october of on "
        "or our patient please previous prior radiology recent report reports said say says scan september she should show "
        "something study tell than that the their them then there they this to was we were what when where which who why "
        "will with would you your ",
    )
)


_ASPECTS = frozenset(["status", "state", "result", "results", "value", "record", "records"])
"""What is asked of a subject: no sentence that tells it needs to say so."""
_SIZE_ASKED = re.compile(r"\bhow (big|large|long|wide)\b|\bsizes?\b|\bdiameters?\b|\bmeasur", re.I)
_SIZE_WORDS = {"big", "large", "size", "diameter", "long", "wide", "measur", "meas"}
_LESIONS = {"mass", "tumor", "lesion", "raumford", "growth"}
_ORGANS = {"hepatic": "liver", "hepat": "liver", "pulmonar": "lung", "pulmonary": "lung", "renal": "kidney", "kidney": "kidney", "splenic": "spleen",
           "biliary": "bile", "bile": "bile"}  # fmt: skip


def _same(stemmed: str) -> str:
    """One name for words that reports use for each other."""
    return "lesion" if stemmed in _LESIONS else _ORGANS.get(stemmed, stemmed)


@dataclass(frozen=True)
class SentenceHit:
    """A sentence of a report that speaks of what was asked; `score` is its cosine plus the share of asked words."""

    report: Report
    sentence: Sentence
    score: float


def stem(word: str) -> str:
    """A crude English stem, enough to match plurals and adjectives (ventricle, ventricles, ventricular)."""
    word = re.sub(r"(ies)$", "y", word.lower())
    word = word.replace("ae", "e").replace("oe", "e").replace("our", "or")  # haemorrhage, oedema, tumour
    word = re.sub(r"(ular|ules?|les?|al|ous|ing|ed|es|s)$", "", word) if len(word) > 5 else word.rstrip("s")
    return word[:8]


def content_words(text: str) -> list[str]:
    """The words of a question that carry its subject, stemmed; sides are compared by themselves."""
    words = re.findall(r"[^\W\d_]{2,}|\d+p|\d+q", text.lower())
    told = [w for w in words if w not in _STOP and w not in ("left", "right")]
    return list(dict.fromkeys(stem(w) for w in [w for w in told if w not in _ASPECTS] or told))


@lru_cache(maxsize=512)
def _in_english(text: str) -> tuple[str, ...]:
    """The report's sentences with the terms of its language put into English; English ones as they are."""
    language = language_of(text[:2000])
    return tuple(glossed(s.text, language) for s in cut(text))


class RecordSearch:
    """Meaning (MiniLM) and words together, over one patient's few hundred sentences: no index is kept."""

    def __init__(self, embedder: MiniLM) -> None:
        self.embedder = embedder
        self._vectors: dict[str, np.ndarray] = {}

    def _embedded(self, report: Report) -> np.ndarray:
        if report.id not in self._vectors:
            self._vectors[report.id] = self.embedder.embed(_in_english(report.text))
        return self._vectors[report.id]

    def sentences(self, query: str, reports: Sequence[Report], limit: int = 4, section: str | None = None) -> list[SentenceHit]:
        """The sentences that answer `query` (in any of the languages of reports), best first; empty where no report speaks of it."""
        asked = glossed(query, language_of(query))
        words = content_words(asked)
        if section is None and (named := [s for s in SECTIONS if s.lower() in asked.lower()]):
            words = [w for w in words if w not in {stem(s) for s in SECTIONS}]
            if not words:
                return [SentenceHit(r, s, 1.0) for r in reports[::-1] for s in cut(r.text) if s.part in named][:limit]
        sized = bool(_SIZE_ASKED.search(asked))
        if sized:
            words = [w for w in words if w not in _SIZE_WORDS] or words
        if not words:
            return []
        wanted = {s for s in sides(asked) if s != "both"}
        vector = self.embedder.embed([asked])[0]
        hits = []
        for report in reports:
            foreign = _in_english(report.text)
            for sentence, english, cosine in zip(cut(report.text), foreign, self._embedded(report) @ vector, strict=True):
                if _heads(report, sentence):
                    continue
                theirs = sides(sentence.text)
                if (section and sentence.part != section) or (len(wanted) == 1 and theirs and not wanted & theirs):
                    continue
                own = {_same(stem(w)) for w in re.findall(r"[^\W\d_]{2,}|\d+p|\d+q", f"{sentence.text} {english}".lower())}
                shared = sum(_same(w) in own for w in words) / len(words)
                if sized and shared and any(not size.prior for size in sizes(sentence.text)):
                    shared += 0.5  # a size was asked for, and this sentence has one
                if (shared >= SHARED and cosine >= RELATED) or (cosine >= SIMILAR and shared >= PARTLY):
                    hits.append(SentenceHit(report, sentence, float(cosine) + shared))
        return sorted(hits, key=lambda h: -h.score)[:limit]

    def gist(self, reports: Sequence[Report], limit: int = 8) -> list[SentenceHit]:
        """What the reports come to, the newest first: the conclusion of each, its findings where it has none, otherwise all but its heading."""
        found: list[SentenceHit] = []
        for report in reports[::-1]:
            every = [s for s in cut(report.text) if not _heads(report, s)]
            for parts in (("IMPRESSION", "CONCLUSION", "DIAGNOSIS"), ("FINDINGS",), None):
                mine = [s for s in every if parts is None or s.part in parts]
                if mine:
                    found += [SentenceHit(report, s, 1.0) for s in mine]
                    break
        return found[:limit]

    def recommendations(self, reports: Sequence[Report], limit: int = 6) -> list[SentenceHit]:
        """What the reports recommend or schedule, the newest report first."""
        found = [SentenceHit(r, s, 1.0) for r in reports[::-1] for s in cut(r.text)
                 if s.part == "RECOMMENDATION" or (s.part not in ("TECHNIQUE", "INDICATION") and read(s.text).recommends)]  # fmt: skip
        return found[:limit]


def _heads(report: Report, sentence: Sentence) -> bool:
    """True for the line that names the report and says nothing of the patient."""
    first = report.text.strip().partition("\n")[0].strip()
    return sentence.text.strip() == first and len(first.split()) <= 8 and len(report.text.strip()) > len(first)


# Names under which clinicians ask for a value, by LOINC code or by word in the value's name.
SYNONYMS: dict[str, str] = {
    "creatinine": r"creatinin", "egfr": r"\begfr\b|glomerular", "kidney function": r"creatinin|\begfr\b|glomerular",
    "platelets": r"platelet|thrombocyt", "kps": r"karnofsky|\bkps\b", "ecog": r"\becog\b", "idh": r"\bidh",
    "mgmt": r"\bmgmt\b", "1p/19q": r"1p|19q", "haemoglobin": r"ha?emoglobin", "performance status": r"karnofsky|\becog\b",
    "molecular": r"\bidh|\bmgmt\b|1p|tert|egfr amplif|atrx|h3 ?k27|cdkn2a|\balk\b|pd-?l1|\bkras\b|\bbraf\b",
    "psa": r"\bpsa\b|prostate specific", "afp": r"fetoprotein|\bafp\b", "bilirubin": r"bilirubin", "albumin": r"albumin",
    "inr": r"\binr\b", "smoking": r"smok|tobacco|pack.?year", "steroid": r"dexameth|predni|steroid",
    "allergies": r"allerg", "death": r"deceased|death", "metastases": r"metasta|secondary malig",
}  # fmt: skip


def find_items(topics: Sequence[str], items: Sequence[RecordItem]) -> list[RecordItem]:
    """The newest value of each item that one of `topics` names (a name, a synonym or a category)."""
    found: dict[str, RecordItem] = {}
    for topic in topics:
        key = topic.strip().lower()
        pattern = SYNONYMS.get(key) or re.escape(key)
        for item in sorted(items, key=lambda i: i.date or "", reverse=True):
            text = f"{item.name} {' '.join(c.display for c in item.codes)}"
            if re.search(pattern, text, re.I) or key in (item.category, f"{item.category}s"):
                found.setdefault(item.name, item)
    return list(found.values())
