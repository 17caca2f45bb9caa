"""Understand a question without a language model: gloss it, read cues, and match it against what tools are asked for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agent.planner import extract
from knowledge.guidelines.minilm import MiniLM
from knowledge.language import glossed, language_of
from knowledge.records.search import SYNONYMS

SIMILAR = 0.60
"""Cosine to one of a tool's example questions from which the tool is taken without a cue."""
NEAR = 0.42
"""Below this best cosine, and without a cue, nothing the tools do fits the question."""

CUES: dict[str, str] = {
    "order": r"\b(give|administer|inject|prescribe|start|stop|order|book|schedule|cancel|delete|discharge)\b.{0,30}"
             r"\b(the patient|her|him|mg\b|scanner|appointment|now|tomorrow|monday|tuesday|wednesday|thursday|friday|records?)",
    "hostile": r"ignore (your|all|previous|the) .{0,20}(instruction|rule)|patient list|system prompt|raw .{0,20}(list|dump)|"
               r"other patients?'?s?\b|password|api key|please follow it|mark (this|it) as (benign|malignant|normal)",
    "growth": r"\bgrown?\b|\bgrowth\b|\bprogress|\bcompar|\bsince\b|bigger than|larger than|shr[aiu]nk|pseudoprogression|"
              r"\bresponse\b|doubling time|\bprior\b",
    "size": r"\bmidline\b|\b(mean|average) (hu|hounsfield|adc|suv|signal|value|intensity)\b|\bhow (big|large)\b|\bsizes?\b|\bvolumes?\b|\bdiameters?\b|\bdimensions?\b|\bmeasur|\bin (ml|mm|cm)\b|\blongest\b",
    "count": r"\bhow many (lesions?|tumou?rs?|metastas\w*|nodules?|mass(es)?)\b|\bmore than one (lesion|tumou?r|nodule|mass)|\bdetect\b|"
             r"\b(bounding )?box(es)?\b|\beach (lesion|tumou?r|nodule)\b",
    "texture": r"\bradiomic|\btextur|\bglcm\b|\bheterogen|\bsphericity\b|\bibsi\b|\bentropy\b",
    "look": r"\b(have|take) a look\b|^look at\b",
    "see": r"\bwhat (do|can|does) (you|it|one|we) see\b|\byou see\b|\bdescribe\b|\bsegment(?! ?\d)|\boutline|\babnormal|"
    r"\bfindings\b|\bis there a (mass|tumou?r|lesion)\b|show .{0,12}mask",
    "where": r"\bwhere (is|does|are|exactly)\b|\bwhich side\b|\blocation\b|\blocated\b",
    "finding": r"\b(is|was|are|were) there\b|\bany (signs?|evidence|other)\b|\bdo(es)? (it|the \w+) (bleed|enhance|calcif)\w*",
    "type": r"\btumou?r type\b|\bwhat (kind|type)\b|\bwhich type\b|\bmost likely\b|\bdiagnos(is|e)\b|\bdifferential\b|"
            r"\b(glioma|meningioma|pituitary)\b.{0,25}\?|\b(is|are|was) (this|it|that|the \w+|these) .{0,24}\b(benign|malignant|cancer)|\bbenign or malignant\b|\bif this is cancer\b|\bclassif|\bhow sure\b",
    "report": r"\breports?\b|\bradiologist\b|\bwrote\b|\bdictat|\bimpression\b|\bpathology\b",
    "contrast": r"\bgadolin|\bcontrast (agent|medi)|\bkidney function|\begfr\b(?! ?mut)|\bcontrast safe|\bnsf\b|iodinated",
    "record": r"\blabs?\b|\blaborator|\bcreatinine\b|\bplatelets?\b|\bha?emoglobin\b|\bkarnofsky\b|\bkps\b|\bmgmt\b|\bidh\b|"
              r"\ballerg|\bmedications?\b|\bconditions?\b|\bmolecular\b|\bpsa\b|\bafp\b|\bbilirubin\b|\bhistory\b|\bdead\b|\bdied\b",
    "guideline": r"\bguidelines?\b|\brecommend|\bstandard (of care|treatment)|\btreat|\btherap|\bshould (we|i|she|he)\b|"
                 r"\bafter surgery\b|\bfirst[\s-]line\b|\boptions?\b|\bwhat next\b|\bnext step|\bfollow[\s-]?up\b|\boffer\b|"
                 r"\bcan (i|we) (start|give)\b|\bmanagement\b|\bchange anything\b|\bdoes (it|that) (matter|change)\b|\bare we done\b|"
    r"\bradiosurg|\bsrs\b|\beligible\b|\bstag(e|ing)\b|\bprogno|pseudoprogression|"
    r"\b(li|lung|bi|ti|pi|o)-?\s?rads\b|\bbosniak\b|\bbclc\b|\blugano\b|\bdeauville\b|\btnm\b|\balbi\b|child.?pugh",
    "planning": r"\b(missing|lack\w*|need\w*|know|unknown|complete)\b.{0,60}\b(treatment|therapy|plan\w*|board|decid\w*|decision)\b|"
                r"\bbefore (the )?(tumou?r board|mdt|treatment|therapy)\b|\bready for (treatment|therapy|the (tumou?r )?board)\b|prepare .{0,20}\bboard\b",
    "advised": r"\b(follow[\s-]?up|recommend\w*|advis\w*|suggest\w*)\b.{0,40}\breports?\b|\breports?\b.{0,40}\b(recommend|advise|suggest)",
    "metadata": r"\bslice thickness\b|\bkernel\b|\bdose\b.{0,15}\?|\bspacing\b|\bscanner\b|\bfield strength\b|\btesla\b|"
                r"\bdicom\b|\bacquired\b|\bvoxel|\bmatrix\b|\b(tr|te)\b(?= and| of|\?)|\bprotocol\b|\bhounsfield\b",
    "summary": r"\bsummar|\boverview\b|\bin \d+ lines\b|\bbring me up to speed\b",
    "list": r"\b(which|what|list|how many)\b.{0,20}\b(studies|scans|images|imaging|series|examinations)\b|\bwho is this patient\b",
}  # fmt: skip

# Rules that a question can ask for by name or by subject.
RULE_CUES: dict[str, str] = {
    "rano_2_0": r"\brano\b", "irecist": r"\bi-?recist\b", "mrecist": r"\bm-?recist\b", "recist_1_1": r"\brecist\b",
    "fleischner_2017": r"\bfleischner\b|^(?!.*(lung-?\s?rads|thyroid|screening)).*(\bnodules?\b.{0,50}\bfollow|\bfollow.{0,30}\bnodule)",
    "volume_doubling_time": r"doubling time", "who_cns_2021_glioma": r"integrated diagnosis|\bwho 2021\b|\bwho grade\b|cns5",
    "lung_rads_2022": r"\blung-?\s?rads\b", "li_rads_2018": r"\bli-?\s?rads\b|\blr-?[345m]\b", "pi_rads_v2_1": r"\bpi-?\s?rads\b",
    "bi_rads": r"\bbi-?\s?rads\b", "acr_ti_rads_2017": r"\bti-?\s?rads\b|\btr[1-5]\b|thyroid nodule.{0,60}(\bfna\b|biops|aspirat)",
    "o_rads_us_v2022": r"\bo-?rads\b", "bosniak_2019": r"\bbosniak\b", "brock_full": r"\bbrock\b|\bpancan\b",
    "mayo_swensen_1997": r"\bmayo (model|score|clinic)|\bswensen\b", "va_gould_2007": r"\bgould\b|\bva model\b", "herder_2005": r"\bherder\b",
    "bclc_2022": r"\bbclc\b", "child_pugh": r"child-?\s?(pugh|turcotte)", "albi": r"\bm?albi\b",
    "lugano_2014_pet": r"\bdeauville\b|\blugano\b(?!.*\bstage\b)", "lugano_2014_stage": r"\bann arbor\b|\blugano\b.*\bstage\b|lymphoma stage",
    "tnm_lung_9": r"\b(tnm|stag(e|ing))\b.*\b(lung|nsclc|iaslc)\b|\b(lung|nsclc)\b.*\b(tnm|stage)\b(?! iv)",
    "tnm_breast_8": r"\b(tnm|stage)\b.*\bbreast\b|\bbreast\b.*\b(tnm|stage)\b", "tnm_kidney_8": r"\b(tnm|stage)\b.*\b(renal|kidney|rcc)\b|\b(renal|kidney|rcc)\b.*\b(tnm|stage)\b",
    "astro_brain_mets_2022": r"(\bsrs\b|radiosurg|\bastro\b).*(\bmets?\b|metasta)|(\bmets?\b|metasta\w*).*(\bsrs\b|radiosurg)",
    "lung_molgpa_2017": r"\blung.?mol.?gpa\b|\bmolgpa\b", "gpa_2008": r"\bds-?gpa\b|\bgpa\b(?<!molgpa)",
    "nsclc_first_line": r"\b(nsclc|non-small|lung (adeno)?c\w*|egfr|alk|pd-?l1|kras|ros1)\b.*\b(first[\s-]line|treat\w*|therap\w*|options?|osimertinib|pembrolizumab|immunotherapy)\b",
}  # fmt: skip

_SITES = {"liver": "ABDOMEN", "hepatic": "ABDOMEN", "lung": "CHEST", "pulmonary": "CHEST", "breast": "BREAST", "prostate": "PROSTATE",
          "kidney": "ABDOMEN", "renal": "ABDOMEN", "thyroid": "NECK", "bone": "BONE", "spine": "SPINE", "pancreas": "ABDOMEN",
          "brain": "BRAIN", "cerebral": "BRAIN", "heart": "CHEST", "bladder": "PELVIS", "spleen": "ABDOMEN",
          "stomach": "ABDOMEN", "adrenal": "ABDOMEN", "colon": "ABDOMEN", "ovary": "PELVIS", "uterus": "PELVIS"}  # fmt: skip
_SITE = re.compile(
    rf"\b({'|'.join(_SITES)})\b(?:\s+(metasta\w*|mets|lesions?|nodules?|tumou?rs?|cysts?|mass(?:es)?|cancer|function))?", re.I
)
_PRONOUN = re.compile(r"^(and|but|what about|how about)\b|\b(it|that|this|its|them)\b", re.I)


@dataclass(frozen=True)
class Understanding:
    """What a question asks for. `tools` are those whose examples it resembles, with their cosine."""

    question: str
    english: str
    language: str
    intents: tuple[str, ...]
    tools: dict[str, float]
    rules: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    subject: str = ""
    unit: str | None = None
    month: str | None = None
    handle: str | None = None
    last: bool = False
    target: str | None = None
    """The part or organ that is to be outlined or measured; None: what the model finds."""
    values_of: str | None = None
    """The series whose values are asked for (a handle, or `same`)."""
    premise: str | None = None
    organ: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Reader:
    """Reads questions; the embedder is shared, the tools' examples are embedded once."""

    def __init__(self, embedder: MiniLM) -> None:
        self.embedder = embedder
        self._examples: dict[tuple[str, ...], np.ndarray] = {}

    def read(
        self, question: str, history: Sequence[str], case: dict[str, Any] | None, tools: Sequence[dict[str, Any]]
    ) -> Understanding:
        """The understanding of `question` after `history` (earlier questions, oldest first) in `case` (its inventory)."""
        before = language_of(history[-1]) if history else "en"
        language = language_of(question, before)
        english = glossed(question, language)
        intents = _intents(english)
        scores = self._scores(english, tools)
        if history and _leans(english, intents):
            earlier = self.read(history[-1], history[:-1], case, tools)
            intents = tuple(dict.fromkeys([*intents, *earlier.intents]))
            scores = {**earlier.tools, **scores}
        rules = _rules(english)
        names = list(dict.fromkeys(f for t in tools for f in t.get("facts", [])))
        site, part = _site(english, case)
        named = extract.handle(question, _handles(case)) or _by_sequence(english, case)
        return Understanding(
            question=question, english=english, language=language, intents=intents, tools=scores, rules=rules,
            topics=_topics(english, case), subject=_subject(english), unit=extract.unit_wished(english),
            month=extract.month(english),
            handle=named, target=_target(english),
            values_of=((named or "same") if _VALUES.search(english) else None),
            last=bool(re.search(r"\b(last|latest|newest|most recent)\b", english, re.I)),
            premise=site, organ=None if rules or "guideline" in intents else part, facts=extract.facts(english, names),
        )  # fmt: skip

    def _scores(self, english: str, tools: Sequence[dict[str, Any]]) -> dict[str, float]:
        clauses = [c for c in re.split(r"[?;.]\s+|,?\s+and\s+(?=what|how|is|are|which|give|does|has)", english) if len(c) > 3]
        asked = self.embedder.embed(list(dict.fromkeys([english, *clauses])))
        best: dict[str, float] = {}
        for tool in tools:
            key = tuple(tool["asks"])
            if key not in self._examples:
                self._examples[key] = self.embedder.embed(list(key))
            best[tool["name"]] = float((self._examples[key] @ asked.T).max())
        return best


def _rules(english: str) -> tuple[str, ...]:
    """Rules that the question asks for; of two readings of the same words the narrower one."""
    found = [n for n, p in RULE_CUES.items() if re.search(p, english, re.I)]
    if "bi_rads" in found and re.search(r"\b(concord|contradict|consistent|fit|match)|routine (screening|follow)", english, re.I):
        found[found.index("bi_rads")] = "bi_rads_concordance"
    if "lung_molgpa_2017" in found and "gpa_2008" in found:
        found.remove("gpa_2008")
    if "recist_1_1" in found and {"irecist", "mrecist"} & set(found) and not re.search(r"(?<![im-])\brecist", english, re.I):
        found.remove("recist_1_1")
    return tuple(found)


def _intents(english: str) -> tuple[str, ...]:
    return tuple(n for n, p in CUES.items() if re.search(p, english, re.I))


def _leans(english: str, intents: Sequence[str]) -> bool:
    """True for a follow-up that only makes sense with the question before it."""
    words = re.findall(r"\w+", english)
    only_unit = set(intents) <= {"size"} and extract.unit_wished(english) is not None and len(words) <= 6
    return only_unit or (not intents and len(words) <= 8 and bool(_PRONOUN.search(english)))


TARGETS = {
    "enhancing tumour": r"\benhanc(ing|es?|ement)\b",
    "tumour core": r"\b(tumou?r )?core\b",
    "liver": r"\bliver\b(?! (lesion|metast|tumou?r|nodule|mass))",
    "spleen": r"\bspleen\b",
    "back muscles": r"\b(back|paraspinal|autochthonous) muscles?\b",
}  # fmt: skip
"""Parts and organs that models in the box can tell, by how they are asked for."""
_VALUES = re.compile(r"\b(mean|average)\b.{0,12}\b(hu|hounsfield|adc|suv|signal|values?|intensity)\b", re.I)


def _target(english: str) -> str | None:
    return next((name for name, pattern in TARGETS.items() if re.search(pattern, english, re.I)), None)


def _handles(case: dict[str, Any] | None) -> list[str]:
    if not case:
        return []
    return [h for s in case.get("studies", []) for h in (s["handle"], *(q["handle"] for q in s["series"]))] + [
        r["handle"] for r in case.get("reports", [])
    ]


def _by_sequence(english: str, case: dict[str, Any] | None) -> str | None:
    """The one series whose sequence the question names, if it names one."""
    series = [q for s in (case or {}).get("studies", []) for q in s["series"] if q.get("sequence")]
    named = [q["handle"] for q in series if re.search(rf"\b{q['sequence']}\b", english, re.I)]
    return str(named[0]) if len(named) == 1 else None


def _topics(english: str, case: dict[str, Any] | None) -> tuple[str, ...]:
    lowered = english.lower()
    named = [t for t in SYNONYMS if re.search(rf"\b{re.escape(t.rstrip('s'))}", lowered)]
    if re.search(r"\blabs?\b|\blaborator", lowered):
        named.append("laboratory")
    if re.search(r"\bdead\b|\bdied\b|\bdeceased\b", lowered):
        named.append("death")
    named += [f"{k}s" if k != "allergy" else "allergy" for k in ("medication", "condition", "allergy", "procedure")
              if re.search(rf"\b{k[:6]}", lowered)]  # fmt: skip
    for name in (case or {}).get("records", []):
        words = [w for w in re.findall(r"\w{4,}", name.lower()) if w not in ("status", "level", "serum")]
        if words and words[0] in lowered and not named:
            named.append(name)
    return tuple(dict.fromkeys(named))


def _subject(english: str) -> str:
    """What a report is asked about, without the words that only ask."""
    text = re.sub(r"^.*?\b(say|says|said|state[sd]?|mention(s|ed)?|write|wrote|report(s|ed)?|describe[sd]?)\b\s*(about|on|of|regarding)?",
                  "", english, flags=re.I) or english  # fmt: skip
    return text.strip(" ?.!,") or english


UNTOLD = ("", "PARTIALBODY", "WHOLEBODY")
"""Body parts (DICOM 0018,0015) of a study that don't say which part it shows."""


def _site(english: str, case: dict[str, Any] | None) -> tuple[str | None, str | None]:
    """A site or disease that the question takes for granted, if neither the case's images nor its records have it."""
    if case is None or any((s.get("body_part") or "").upper() in UNTOLD for s in case.get("studies", [])):
        return None, None  # images that don't say what they show may show it: the tools look, and refuse what isn't theirs
    parts = " ".join(s.get("body_part") or "" for s in case.get("studies", [])).upper()
    texts = " ".join([*case.get("records", []), *(r["title"] for r in case.get("reports", []))]).lower()
    for match in _SITE.finditer(english):
        site, disease = match.group(1).lower(), match.group(2)
        if disease == "function" or _SITES[site] in parts or (site in texts and not disease):
            continue
        return (match.group(0) if disease else None), (None if disease else site)
    return None, None
