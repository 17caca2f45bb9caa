"""Understand a question without a language model: gloss it, mend slips, read cues, match it against what tools are asked for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from agent.guard import reads_like_an_order
from agent.planner import extract
from agent.planner.cues import (
    CHART,
    CORRECTION,
    CUES,
    MARKER,
    MODALITIES,
    NAMED,
    PERSON,
    POLITE,
    PRONOUN,
    RULE_CUES,
    SEQUENCES,
    SIDES,
    SITE,
    SITES,
    STAGES,
    STAGING,
)
from agent.planner.phrases import ELSEWHERE, NONE, likeness
from agent.planner.spelling import Speller
from knowledge.guidelines.adding import DISEASES
from knowledge.guidelines.minilm import MiniLM
from knowledge.guidelines.rules import RULES
from knowledge.language import english_terms, glossed, language_of
from knowledge.records.planning import disease_of
from knowledge.records.search import SYNONYMS, content_words
from tools.registry import IN_THE_BOX

SIMILAR = 0.60
"""Cosine to one of a tool's example questions from which the tool is taken without a cue."""
NEAR = 0.42
"""Below this best cosine, and without a cue, nothing the tools do fits the question."""
LIKE, AHEAD = -0.3, 0.3
"""How like a known wording (its side of the line), and how far ahead of the next, a question without a cue has to be to be read as it."""
CLOSE = 0.015
"""Two tools whose best cosines are nearer than this, where no word decides between them, are asked back about."""
LONGEST = 12
"""Words up to which a question is asked back about: a longer one means more than two example questions can say."""
_BOX = frozenset(t.model_fields["name"].default for t in IN_THE_BOX)
REFUSED = ("order", "hostile")
ON_IMAGES = {"growth", "size", "count", "texture", "look", "see", "where", "type", "metadata", "draft"}
"""Intents that need an image to look at."""
CARRIED = {"growth", "size", "count", "texture", "look", "see", "where", "type", "finding", "report", "record", "guideline", "contrast", "metadata", "list"}  # fmt: skip
"""Intents that a follow-up can take over from the question before."""


@dataclass(frozen=True)
class Turn:
    """An earlier question, and what was said to it (without evidence marks; empty where it isn't known)."""

    question: str
    said: str = ""
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Inputs of the rules that were computed, by rule."""
    quiz: str | None = None
    """The teaching session that asked a question in this turn."""


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
    whole_report: bool = False
    """True where a report is asked for as a whole, without a subject."""
    report: str | None = None
    """The report that the question means by its kind (the pathology report), where one alone fits."""
    handles: tuple[str, ...] = ()
    """Every handle that the question names."""
    at: tuple[float, float, float] | None = None
    """The point that the user clicked: column, row, frame."""
    last: bool = False
    target: str | None = None
    """The part or organ that is to be outlined or measured; None: what the model finds."""
    values_of: str | None = None
    """The series whose values are asked for (a handle, or `same`)."""
    premise: str | None = None
    organ: str | None = None
    absent: str | None = None
    """A study, sequence or date that the question takes for granted and the case lacks."""
    ask_back: bool = False
    """True where studies of several body parts fit and the question doesn't say which."""
    readings: tuple[str, ...] = ()
    """Example questions of the tools that the question may mean, where no word decides between them."""
    side: str | None = None
    follows: bool = False
    """True for a question that only makes sense with the one before it."""
    counterfactual: bool = False
    quiz: str | None = None
    """The teaching session whose question this answers."""
    passed_over: str | None = None
    """What part of the question isn't done (`order` or `hostile`), where the rest of it is."""
    facts: dict[str, Any] = field(default_factory=dict)


class Reader:
    """Reads questions; the embedder is shared, the tools' examples are embedded once."""

    def __init__(self, embedder: MiniLM) -> None:
        self.embedder = embedder
        self._examples: dict[tuple[str, ...], np.ndarray] = {}

    @cached_property
    def speller(self) -> Speller:
        """Mends slips towards the words of cues, topics, sites and the glossary's English."""
        patterns = [*CUES.values(), *RULE_CUES.values(), *MODALITIES.values(), *DISEASES.values()]
        words = [w for p in patterns for w in re.findall(r"(?<![\\\w])[a-z]{5,}(?![a-z]*\\w)", p)]
        return Speller(self.embedder.words(), [*words, *SITES, *SYNONYMS, *english_terms(), *_FIELD])

    def read(
        self, question: str, history: Sequence[Turn], case: dict[str, Any] | None, tools: Sequence[dict[str, Any]]
    ) -> Understanding:
        """The understanding of `question` after `history` (oldest first) in `case` (its inventory)."""
        before = language_of(history[-1].question) if history else "en"
        if history and history[-1].quiz and not _LEAVES.search(question):
            language = language_of(question, before)
            return Understanding(question, glossed(question, language), language, ("quiz",), {}, quiz=history[-1].quiz)
        language = language_of(question, before)
        plain = POLITE.sub("", question).strip()
        if not re.search(r"\w", plain):
            return Understanding(question, glossed(question, language), language, ("help",), {})
        kept, passed_over = _without_orders(plain, language)
        english = self.speller.mended(glossed(kept, language))
        scores, nearest = self._scores(english, tools)
        names = list(dict.fromkeys(f for t in tools for f in t.get("facts", [])))
        site, part = _site(english, case)
        handles = tuple(h for h in re.findall(r"\b[SR]\d+(?:\.\d+)?\b", question) if h in _handles(case))
        named = next(iter(handles), None) or _by_sequence(english, case)
        point = extract.point(question)
        rules = _rules(english, case)
        asked = Understanding(
            question=question, english=english, language=language, passed_over=passed_over, intents=_intents(english), tools=scores,
            rules=rules, topics=_topics(english, case), subject=_subject(english), unit=extract.unit_wished(english),
            month=extract.month(english), handle=named, handles=handles, at=point,
            last=bool(re.search(r"\b(last|latest|newest|most recent)\b", english, re.I)), target=_target(english),
            whole_report=_whole(english), report=_report_named(english, case),
            values_of=((named or "same") if _VALUES.search(english) else None), premise=site, organ=part,
            side=next(iter(re.findall(SIDES, english, re.I)), None), facts=extract.facts(english, names),
        )  # fmt: skip
        if _undecided(asked) and not (history and _leans(english, asked)):
            asked = _as_worded(asked, plain, case)
        if history:
            asked = self._after(asked, history, case, tools, names)
        if asked.rules or {"guideline", "draft", "check"} & set(asked.intents):
            asked = replace(asked, organ=None)
        if {"draft", "check", "summary"} & set(asked.intents):
            asked = replace(asked, premise=None)
        elsewhere = {"guideline", "contrast", "report", "planning", "record", "hostile", "order"}
        if not asked.rules and not asked.premise and not asked.organ and not set(asked.intents) & elsewhere:
            dated = bool(set(asked.intents) & (ON_IMAGES | {"list"}))
            asked = replace(asked, absent=_absent(english, asked.month if dated else None, case, dated))
        return replace(asked, ask_back=_several(asked, case), readings=_readings(asked, nearest))

    def _after(self, asked: Understanding, history: Sequence[Turn], case: dict[str, Any] | None, tools: Sequence[dict[str, Any]],
               names: list[str]) -> Understanding:  # fmt: skip
        """What a follow-up takes over from the turns before it."""
        english = asked.english
        refers = bool(PRONOUN.search(english))
        changes = "change" in asked.intents
        explains = "explain" in asked.intents
        leans = _leans(english, asked)
        if not (leans or refers or changes or explains):
            return asked
        past = self.read(history[-1].question, history[-5:-1], case, tools)  # a chain of follow-ups is followed four turns back
        said = [t for turn in history[-3:] for t in (turn.question, turn.said)]
        stated: dict[str, Any] = {}
        for text in said:
            stated |= extract.facts(glossed(text, language_of(text)), names)
        rules = asked.rules
        if (changes or explains or leans) and not rules:
            rules = past.rules or _rules(" ".join(said), case)
        if changes and not rules:  # the rules that were computed for the case, as far as they know what is changed
            rules = tuple(r for r in history[-1].facts if r in RULES and set(asked.facts) & set(RULES[r].spec["facts"]))
        if changes or explains:
            computed = {n: v for turn in history for r, f in turn.facts.items() if r in rules for n, v in f.items()}
            stated = {**stated, **computed}
            kept = tuple(i for i in asked.intents if i in ("change", "explain")) if rules else asked.intents
            return replace(asked, rules=rules, facts={**stated, **asked.facts}, intents=kept, follows=True, counterfactual=bool(rules),
                           premise=None)  # fmt: skip
        if leans:
            intents = tuple(dict.fromkeys([*asked.intents, *(i for i in past.intents if i in CARRIED)]))
            if not set(intents) - {"explain"}:
                intents = tuple(dict.fromkeys([*intents, *_intents(" ".join(said))]))
            return replace(
                asked, intents=intents, rules=rules, tools={**past.tools, **asked.tools}, target=asked.target or past.target,
                handle=asked.handle or past.handle, topics=asked.topics or past.topics, facts={**stated, **asked.facts}, follows=True,
                subject=f"{asked.side or ''} {past.subject}".strip() if len(english.split()) <= 6 else asked.subject,
                premise=asked.premise, values_of=asked.values_of or past.values_of,
            )  # fmt: skip
        if "guideline" in asked.intents and not asked.rules:
            last = f"{history[-1].question} {history[-1].said} {english}"
            asked = replace(asked, rules=_rules(glossed(last, language_of(last)), case))
        return replace(
            asked, facts={**stated, **asked.facts} if asked.rules else asked.facts, premise=None if asked.rules else asked.premise
        )

    def _scores(self, english: str, tools: Sequence[dict[str, Any]]) -> tuple[dict[str, float], dict[str, str]]:
        """The best cosine of each tool, and the example question that has it."""
        clauses = [c for c in re.split(r"[?;.]\s+|,?\s+and\s+(?=what|how|is|are|which|give|does|has)", english) if len(c) > 3]
        asked = self.embedder.embed(list(dict.fromkeys([english, *clauses])))
        best: dict[str, float] = {}
        nearest: dict[str, str] = {}
        for tool in tools:
            key = tuple(tool["asks"])
            if key not in self._examples:
                self._examples[key] = self.embedder.embed(list(key))
            cosines = (self._examples[key] @ asked.T).max(1)
            best[tool["name"]], nearest[tool["name"]] = float(cosines.max()), key[int(cosines.argmax())]
        return best, nearest


def _undecided(asked: Understanding) -> bool:
    """True where no word of the question decides what it asks for, and no tool of others says that it is asked so."""
    words = asked.intents or asked.rules or asked.premise or asked.organ or asked.handles or asked.at
    return not words and not any(cosine >= SIMILAR for tool, cosine in asked.tools.items() if tool not in _BOX)


def _as_worded(asked: Understanding, text: str, case: dict[str, Any] | None) -> Understanding:
    """The question as the plain wording that it is most like, where it is much more like that than like any other."""
    like = likeness(text)
    if like.score < LIKE or like.margin < AHEAD or like.intent == ELSEWHERE:
        return asked
    if like.intent == NONE:
        return replace(asked, intents=("outside",)) if max(asked.tools.values(), default=0.0) < SIMILAR else asked
    english = f"{like.plain}?"
    return replace(
        asked, english=english, intents=_intents(english), rules=_rules(english, case), topics=_topics(english, case), subject=_subject(english),
        target=asked.target or _target(english), whole_report=_whole(english), report=_report_named(english, case),
    )  # fmt: skip


_LEAVES = re.compile(
    r"\?\s*$|^(draft|write|check|show|list|summar|segment|measure|compare)\b",
    re.I,
)
"""What leaves a teaching session: a question of the asker's own, or another request."""


def _readings(asked: Understanding, nearest: dict[str, str]) -> tuple[str, ...]:
    """The two readings that are too close to choose between."""
    decided = asked.intents or asked.rules or asked.premise or asked.organ or asked.absent or asked.ask_back or asked.follows
    best = sorted(((s, t) for t, s in asked.tools.items()), reverse=True)[:2]
    if (
        decided
        or len(asked.english.split()) > LONGEST
        or len(best) < 2
        or not NEAR <= best[1][0] <= best[0][0] < SIMILAR
        or best[0][0] - best[1][0] >= CLOSE
    ):
        return ()
    return tuple(dict.fromkeys(nearest[t] for _, t in best))


def _without_orders(question: str, language: str) -> tuple[str, str | None]:
    """The question without the sentences that ask for what isn't done, where something else is asked beside them; and what they were."""
    sentences = [s for s in re.split(r"(?<=[.?!。？！])\s*(?=\S)(?![\w.-]*\.\w)|\n+", question) if s.strip()]
    refused = {s: _refused(s, language) for s in sentences}
    rest = [s for s in sentences if refused[s] is None]
    kinds = [k for k in refused.values() if k]
    quoting = re.compile(r"(the|this|that) (\w+ )?(report|note|letter|dicom|document)\b.{0,40}\bsays?\b", re.I)
    asks = any(
        set(_intents(e)) - {"report", "explain"} or _rules(e)
        for s in rest
        if not quoting.match(s)
        for e in [glossed(s, language)]
    )
    asks = asks or any("report" in _intents(glossed(s, language)) and "?" in s for s in rest)
    return (" ".join(rest), kinds[0]) if kinds and asks else (question, None)


def _refused(sentence: str, language: str) -> str | None:
    english = glossed(sentence, language)
    if reads_like_an_order(sentence):
        return "hostile"
    return next((n for n in REFUSED if re.search(CUES[n], english, re.I)), None)


_FIELD = ("nodule", "lesion", "tumour", "tumor", "metastasis", "metastases", "volume", "diameter", "segment", "measure", "radiology", "pathology",
          "fleischner", "bosniak", "deauville", "lugano", "recist", "glioma", "glioblastoma", "meningioma", "pituitary", "creatinine", "platelets",
          "gadolinium", "guideline", "treatment", "recommended", "follow", "enhancing", "compare", "progression", "response", "biopsy", "thyroid",
          "prostate", "kidney", "breast", "liver", "ventricle", "midline", "methylated", "summarize", "summarise", "report", "contrast", "calcified",
          "cirrhosis", "pembrolizumab", "temozolomide", "radiotherapy", "screening", "malignant", "benign", "cancer")  # fmt: skip
"""Words of the field that slips are mended towards, beside those of the cues."""


def _rules(english: str, case: dict[str, Any] | None = None) -> tuple[str, ...]:
    """Rules that the question asks for; of two readings of the same words the narrower one."""
    found = [n for n, p in RULE_CUES.items() if re.search(p, english, re.I)]
    if "bi_rads" in found and re.search(r"\b(concord|contradict|consistent|fit|match)|routine (screening|follow)", english, re.I):
        found[found.index("bi_rads")] = "bi_rads_concordance"
    if "lung_molgpa_2017" in found and "gpa_2008" in found:
        found.remove("gpa_2008")
    if "gpa_2008" in found and (entity := _gpa_of(f"{english} {_texts(case)}")):
        found[found.index("gpa_2008")] = entity
    if "recist_1_1" in found and {"irecist", "mrecist"} & set(found) and not re.search(r"(?<![im-])\brecist", english, re.I):
        found.remove("recist_1_1")
    if (
        STAGING.search(english)
        and not set(found) & {*STAGES.values(), "bclc_2022"}
        and (organ := _organ(english, case)) in STAGES
    ):
        found.append(STAGES[str(organ)])
    if (
        not found
        and STAGING.search(english)
        and _organ(english, case) == "liver"
        and re.search(_HCC, f"{english} {_texts(case)}", re.I)
    ):
        found.append("bclc_2022")
    if not found and _GRADE.search(english) and _organ(english, case) == "brain":
        found.append("who_cns_2021_glioma")
    return tuple(found)


_HCC = r"\bhcc\b|hepatocellular"
_GRADE = re.compile(
    r"\b(what|which) (who |cns |tumou?r )?(grade|stage)\b|\b(who|cns|tumou?r) (grade|stage)\b|^\W*(grade|stage)\W*$", re.I
)


def _gpa_of(text: str) -> str | None:
    """The graded prognostic assessment of the primary that the words name."""
    primaries = {"lung_gpa_2022": r"nsclc|lung|adenocarcinoma", "melanoma_molgpa_2017": "melanom", "breast_gpa_2020": "breast",
                 "renal_gpa_2018": r"renal|kidney|rcc", "gi_gpa_2019": r"colorect|colon|gastr|gastro"}  # fmt: skip
    return next((name for name, pattern in primaries.items() if re.search(pattern, text, re.I)), None)


def _organ(english: str, case: dict[str, Any] | None) -> str | None:
    """The organ or disease that the question names, or else the case's own."""
    for text in (english, _texts(case)):
        named = disease_of(text)
        organ = next((d for d, p in DISEASES.items() if re.search(p, f"{named or ''} {text}", re.I)), None)
        if organ is not None and organ != "contrast safety":
            return organ
    parts = [str(s.get("body_part") or "").upper() for s in (case or {}).get("studies", [])]
    return "lung" if "CHEST" in parts else None


def _texts(case: dict[str, Any] | None) -> str:
    """What the case's inventory says in words."""
    known = case or {}
    studies = [f"{s.get('body_part') or ''} {s.get('description') or ''}" for s in known.get("studies", [])]
    return " ".join(
        [
            *known.get("records", []),
            *studies,
            *(f"{r.get('title') or ''} {r.get('kind') or ''}" for r in known.get("reports", [])),
        ]
    )


_CLAUSES = re.compile(
    r"[?;.!]\s+|,\s*(?:and|but|then)?\s*|\s+(?:and|but|then)\s+(?=what|how|is|are|which|give|does|has|tell|measure|compare|where|who|why)"
)
_SEEN = {"size", "where", "type", "count", "see", "finding", "growth"}
"""Intents that a report's words bring along without meaning the images: what did the report say about the size?"""


def _intents(english: str) -> tuple[str, ...]:
    """What is asked for; what a clause asks of a report isn't asked of the images."""
    found = [n for n, p in CUES.items() if re.search(p, english, re.I)]
    if "report" not in found:
        return tuple(found)
    elsewhere: set[str] = set()
    for clause in _CLAUSES.split(english):
        named = {n for n, p in CUES.items() if clause and re.search(p, clause, re.I)}
        if "report" not in named:
            elsewhere |= named
    return tuple(n for n in found if n not in _SEEN or n in elsewhere)


def in_order(asked: "Understanding") -> list[str]:
    """The intents in the order in which the question names them."""
    places = {i: m.start() for i in asked.intents if i in CUES and (m := re.search(CUES[i], asked.english, re.I))}
    return sorted(asked.intents, key=lambda i: places.get(i, 0))


def _leans(english: str, asked: Understanding) -> bool:
    """True for a follow-up that only makes sense with the question before it."""
    words = re.findall(r"\w+", english)
    only_unit = set(asked.intents) <= {"size"} and asked.unit is not None and len(words) <= 6
    opens = bool(re.match(r"(and|but|what about|how about|ok and|then)\b", english, re.I)) and len(words) <= 10
    corrects = bool(CORRECTION.match(english)) and len(words) <= 14
    bare = not asked.intents and not asked.rules and len(words) <= 8 and bool(PRONOUN.search(english) or len(words) <= 4)
    sure = bool(re.search(r"\bare you sure\b|\bagain\b|\bdouble[- ]check\b", english, re.I)) and len(words) <= 8
    return only_unit or (opens and not set(asked.intents) - {"size", "finding", "list", "where"}) or corrects or bare or sure


TARGETS = {
    "enhancing tumour": r"\benhanc(ing|es?|ement)\b",
    "tumour core": r"\b(tumou?r )?core\b",
    "liver": r"\bliver\b(?! (lesion|metast|tumou?r|nodule|mass))",
    "spleen": r"\bspleen\b",
    "back muscles": r"\b(back|paraspinal|autochthonous) muscles?\b",
}  # fmt: skip
"""Parts and organs that models in the box can tell, by how they are asked for."""
_VALUES = re.compile(
    r"\b(mean|average)\b.{0,12}\b(hu|hounsfield|adc|suv|signal|values?|intensity)\b|\b(hounsfield|hu|suv|adc)\b.{0,20}\b(of|in|inside) the\b",
    re.I,
)


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
    named = [q["handle"] for q in series if re.search(rf"\b{re.escape(q['sequence'])}\b", english, re.I)]
    return str(named[0]) if len(named) == 1 else None


def _topics(english: str, case: dict[str, Any] | None) -> tuple[str, ...]:
    lowered = english.lower()
    if re.search(PERSON, english, re.I):
        return tuple(
            t for t, p in (("age", r"\bage\b|\bhow old\b"), ("sex", r"\bsex\b|gender|male|woman")) if re.search(p, lowered)
        )
    if re.search(CHART, english, re.I):
        return ()
    if re.search(r"\bdiagnos[ei]s\b|\bproblem list\b", lowered):
        lowered += " condition"
    named = [t for t in SYNONYMS if re.search(rf"\b{re.escape(t.rstrip('s'))}", lowered)]
    if re.search(r"\blabs?\b|\blaborator", lowered):
        named.append("laboratory")
    if re.search(CUES["record"], english, re.I) and re.search(
        r"\b(operation|surgery|operated|resection|craniotomy|interventions?)\b", lowered
    ):
        named.append("procedures")
    if re.search(r"\bdead\b|\bdied\b|\bdeceased\b|\balive\b", lowered):
        named.append("death")
    named += [f"{k}s" if k != "allergy" else "allergy" for k in ("medication", "condition", "allergy", "procedure")
              if re.search(rf"\b{k[:6]}", lowered)]  # fmt: skip
    for name in (case or {}).get("records", []):
        words = [w for w in re.findall(r"\w{4,}", name.lower()) if w not in ("status", "level", "serum")]
        if words and words[0] in lowered and not named:
            named.append(name)
    if not named and (marker := re.search(MARKER, english, re.I)):
        named.append(marker.group(0).lower())
    if not named and (asked := _UNKNOWN.search(english)):
        named.append(next(g for g in asked.groups() if g).lower())
    if re.search(r"\bdrugs?\b|\bmeds\b|\banticoag|\bblood thinner|\bsteroid|\bdex", lowered):
        named.append("medications")
    return tuple(dict.fromkeys(named))


_UNKNOWN = re.compile(
    r"\b(?:is|are) (?:it|this|she|he|the tumou?r) (\w[\w-]+) (?:positive|negative|mutated|mutant|amplified)|\b(\w[\w-]+) (?:status|score|level|value|count)\b"
    r"|\bwhat (?:is|are|was|were) (?:the |her |his |their |current |latest )*([a-z][\w-]{2,}(?: [\w-]+)?)\s*(?:\?|$| in | now)|^(?:latest |current |the )?([a-z][\w-]{2,})\s*\?*$"
    r"|\b(radiotherapy|chemotherapy|gleason|meld|calcitonin|brca|ros1|ki-?67|tsh|antibiotics?|pacemakers?|implants?|blood type|blood group|pregnant|pregnancy)\b",
    re.I,
)
"""The thing that a question on the record names, where it is none of the known topics."""


_BY_REPORT = re.compile(
    r"\b(?:according to|as per|per|in|by|from|of) (?:the |her |his |their |last |latest |newest |previous )*(?:[\w-]+ ){0,2}(?:reports?|letters?|sheets?)\b[ ?.!]*$",
    re.I,
)
_ASKS = re.compile(
    r"^(?:what|which|how (?:big|large|long|wide)|where|is there|are there|was there|does it|did it)\s+(?:(?:side|lobe|size|is|are|was|were|does|did|the)\s+)*",
    re.I,
)


def _subject(english: str) -> str:
    """What a report is asked about, without the words that only ask."""
    if (told := re.search(r"\babout\s+(.{3,})$", english, re.I)) is not None:
        return told.group(1).strip(" ?.!,")
    if _BY_REPORT.search(english):
        bare = re.sub(r"\s(on|in|at|of|to)$", "", _BY_REPORT.sub("", english).strip(" ?.!,"), flags=re.I)
        return (
            f"{'size of ' if re.match('how (big|large|long|wide)', bare, re.I) else ''}{_ASKS.sub('', bare)}".strip() or english
        )
    text = re.sub(r"^.*?\b(say|says|said|state[sd]?|mention(s|ed)?|write|wrote|report(s|ed)?|describe[sd]?)\b\s*(about|on|of|regarding)?",
                  "", english, flags=re.I) or english  # fmt: skip
    return text.strip(" ?.!,") or english


_REPORT_KINDS = r"patholog\w*|histolog\w*|pet\b|ngs|molecular|genetic|ultraso\w+|sonogra\w+|letter|sheet|mammogra\w*|biops\w*|hepatolog\w*|oncolog\w*|clinic|discharge|mri?\b|ct\b|x-?ray|radiolog\w*"
_KIND_OF = {"histolog": "patholog", "biops": "patholog", "sonogra": "ultraso", "mri": "mr", "genetic": "ngs"}


def _whole(english: str) -> bool:
    """True where nothing is left of the question once the report itself is taken out of it."""
    months = "january|february|march|april|may|june|july|august|september|october|november|december"
    rest = re.sub(rf"\b({_REPORT_KINDS}|{months}|\d{{4}}|impressions?|findings?|conclusions?|results?|diagnos\w+|earlier|before|one|content|tell|gave|give|stand|written|quote|full)\b",
                  " ", english, flags=re.I)  # fmt: skip
    return not content_words(rest)


def _report_named(english: str, case: dict[str, Any] | None) -> str | None:
    """The one report whose title has the kind of report that the question names."""
    kinds = {k.lower() for k in re.findall(rf"\b({_REPORT_KINDS})", english, re.I)}
    stems = {next((v for s, v in _KIND_OF.items() if k.startswith(s)), k[:8]) for k in kinds} - {"radiolog"}
    fitting = [
        r["handle"]
        for r in (case or {}).get("reports", [])
        if any(re.search(rf"\b{re.escape(s)}", f"{r['title']} {r.get('kind') or ''}", re.I) for s in stems)
    ]
    return str(fitting[0]) if len(fitting) == 1 else None


def imaged(case: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The case's imaging studies, in its order."""
    return [s for s in (case or {}).get("studies", []) if set(s["modality"]) - {"SEG", "SR"}]


UNTOLD = ("", "PARTIALBODY", "WHOLEBODY")
"""Body parts (DICOM 0018,0015) of a study that don't say which part it shows."""


def _site(english: str, case: dict[str, Any] | None) -> tuple[str | None, str | None]:
    """A site or disease that the question takes for granted, if neither the case's images nor its records have it."""
    if case is None or any((s.get("body_part") or "").upper() in UNTOLD for s in case.get("studies", [])):
        return None, None  # images that don't say what they show may show it: the tools look, and refuse what isn't theirs
    parts = " ".join(
        f"{s.get('body_part') or ''} {_PARTS.get((s.get('body_part') or '').upper(), '')}" for s in case.get("studies", [])
    ).upper()
    texts = _texts(case).lower()
    for match in SITE.finditer(english):
        site, disease = match.group(1).lower(), match.group(2)
        if disease == "function" or SITES[site] in parts or site.upper() in parts or site in texts:
            continue
        return (match.group(0) if disease else None), (None if disease else site)
    return None, None


_PARTS = {"LIVER": "ABDOMEN", "KIDNEY": "ABDOMEN", "LUNG": "CHEST", "HEAD": "BRAIN", "THYROID": "NECK"}
"""Body parts as studies state them -> the region that sites are counted to."""


def _absent(english: str, month: str | None, case: dict[str, Any] | None, by_date: bool) -> str | None:
    """A modality, sequence or date of imaging that the question names and the case doesn't have."""
    studies = imaged(case)
    if not studies:
        return None
    have = {m for s in studies for m in s["modality"]} | ({"CT"} if any("PT" in s["modality"] for s in studies) else set())
    told = " ".join(str(s.get("description") or "") for s in studies)
    for modality, pattern in MODALITIES.items():
        match = re.search(pattern, english, re.I)
        if (
            match
            and modality not in have
            and not re.search(pattern, told, re.I)
            and not re.search(r"\b(report|recommend|need|should|could|instead|offer|order)\b", english, re.I)
        ):
            return NAMED[modality]
    listed = {str(q.get("sequence") or "").upper() for s in studies for q in s["series"]}
    if listed - {""}:
        for name, pattern in SEQUENCES.items():
            match = re.search(pattern, english, re.I)
            if match and name not in listed and not any(name in x for x in listed) and not re.search(r"mismatch", english, re.I):
                return match.group(0)
    if month is not None and not any(month in str(s.get("date") or "") for s in studies):
        return re.sub(r"^-", "month ", month)
    year = by_date and re.search(
        r"\b(?:in|from|of|the) (19\d\d|20\d\d) ?(?:scan|mri|ct|study|exam|one)?\b|\b(19\d\d|20\d\d) (?:scan|mri|ct|study|exam)",
        english,
    )
    if year and month is None:
        named = str(year.group(1) or year.group(2))
        dated = [str(s.get("date") or "") for s in studies]
        if (
            all(dated)
            and not any(d.startswith(named) for d in dated)
            and not re.search(r"\bwho 20|\b20\d\d (edition|version|guideline|criteria)", english, re.I)
        ):
            return named
    return None


def _several(asked: Understanding, case: dict[str, Any] | None) -> bool:
    """True where the images show several body parts and nothing says which one is meant."""
    studies = imaged(case)
    parts = {str(s.get("body_part") or "").upper() for s in studies}
    if len(parts) < 2 or asked.handle or asked.rules or not set(asked.intents) & (ON_IMAGES - {"metadata", "draft", "look"}):
        return False
    if set(asked.intents) & {"privacy", "guideline", "report", "planning", "summary"} or asked.target or asked.at or asked.last:
        return False
    named = [
        p
        for p in parts
        if p
        and (
            p.lower() in asked.english.lower()
            or any(SITES[s.lower()] in (p, _PARTS.get(p)) for s, _ in SITE.findall(asked.english))
        )
    ]
    modalities = [m for m, p in MODALITIES.items() if re.search(p, asked.english, re.I)]
    only = [s for s in studies if set(s["modality"]) & set(modalities)]
    return not named and len(only) != 1 and "ATTACHED" not in asked.question.upper()
