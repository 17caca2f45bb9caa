"""What a sentence of a report speaks of: a finding, where, on which side, how large, how many, and whether it is there."""

import re
from dataclasses import dataclass
from functools import lru_cache

from knowledge.language import glossed
from knowledge.records.reading import Size, certainty_of, read, sides
from knowledge.records.reports import Sentence

FINDINGS: dict[str, str] = {
    "lesion": r"\b(?:mass(?:es)?|lesions?|tumou?rs?(?! board| conference)|nodules?|observations?|metasta\w+|glioma|glioblastoma|meningioma|carcinoma|adenoma|neoplasm|cysts?|opacit(?:y|ies)|foc(?:us|i))\b",
    "effusion": r"\b(?:pleural |pericardial )?effusions?\b", "pneumothorax": r"\bpneumothorax\b", "haemorrhage": r"\bha?emorrhag\w+|\bbleeding\b|\bha?ematoma\w*",
    "hydrocephalus": r"\bhydrocephalus\b", "midline shift": r"\bmidline shift\b|\bshift of the midline\b|\bmidline is (?:not )?shifted\b|\bmidline (?:is )?displaced",
    "oedema": r"\bo?edema\b", "fracture": r"\bfractures?\b", "embolism": r"\bpulmonary embol\w+|\bfilling defects?\b", "thrombus": r"\bthromb(?:us|osis|i)\b|\btumou?r in vein\b",
    "ascites": r"\bascites\b", "lymphadenopathy": r"\blymphadenopathy\b|\benlarged (?:\w+ ){0,2}(?:lymph )?nodes?\b|\b(?:lymph )?nodes? (?:is |are )?(?:not )?enlarged\b",
    "cirrhosis": r"\bcirrho\w+", "emphysema": r"\bemphysema\w*", "consolidation": r"\bconsolidations?\b", "washout": r"\bwash-?out\b", "capsule": r"\bcapsule\b",
    "diffusion restriction": r"\brestricted diffusion\b|\bdiffusion restriction\b", "calcification": r"\bcalcifi\w+", "hydronephrosis": r"\bhydronephrosis\b",
    "extraprostatic extension": r"\bextraprostatic extension\b", "spiculation": r"\bspiculat\w+",
}  # fmt: skip
"""Findings by the name that checks use, as patterns over a sentence put into English."""
SITES: dict[str, str] = {
    "frontal": r"\bfronto?\w*al\b", "parietal": r"\bparietal\b", "temporal": r"\btemporal\b", "occipital": r"\boccipital\b", "cerebellum": r"\bcerebell\w+",
    "upper lobe": r"\bupper lobe\b|\b[rl]ul\b", "middle lobe": r"\bmiddle lobe\b|\brml\b|\blingula\b", "lower lobe": r"\blower lobe\b|\b[rl]ll\b",
    **{f"segment {r}": rf"\bsegment\w* (?:{n}|{r.lower()})\b" for n, r in enumerate(("I", "II", "III", "IV", "V", "VI", "VII", "VIII"), 1)},
    "lung": r"\blungs?\b|\bpulmonary\b", "liver": r"\bliver\b|\bhepatic\b", "kidney": r"\bkidneys?\b|\brenal\b", "breast": r"\bbreasts?\b", "thyroid": r"\bthyroid\b", "adrenal": r"\badrenals?\b",
    "spleen": r"\bspleen\b|\bsplenic\b", "pancreas": r"\bpancrea\w+", "peripheral zone": r"\bperipheral zone\b", "transition zone": r"\btransition(?:al)? zone\b",
    "ventricle": r"\bventric\w+", "axilla": r"\baxilla\w*", "mediastinum": r"\bmediastin\w+", "hilum": r"\bhil(?:ar|um|i)\b", "pleura": r"\bpleura\w*",
    "upper outer": r"\bupper outer\b", "upper inner": r"\bupper inner\b", "lower outer": r"\blower outer\b", "lower inner": r"\blower inner\b",
    "bone": r"\bbones?\b|\bverteb\w+|\bribs?\b",
}  # fmt: skip
"""Where something is, likewise."""
_ORGAN_OF = {"upper lobe": "lung", "middle lobe": "lung", "lower lobe": "lung", "frontal": "brain", "parietal": "brain", "temporal": "brain", "occipital": "brain",
             "cerebellum": "brain", "ventricle": "brain", "liver": "liver", **{f"segment {r}": "liver" for r in ("I", "II", "III", "IV", "V", "VI", "VII", "VIII")},
             "peripheral zone": "prostate", "transition zone": "prostate", "upper outer": "breast", "upper inner": "breast", "lower outer": "breast",
             "lower inner": "breast"}  # fmt: skip
_COUNT = {
    "no": 0,
    "one": 1,
    "a single": 1,
    "single": 1,
    "solitary": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
}
_COUNTED = re.compile(
    rf"\b({'|'.join(_COUNT)}|\d{{1,2}})\s+(?:(?!mm|cm|ml|months?|years?|weeks?)[a-z-]+\s+){{0,3}}?(?:lesions?|masses|mass|nodules?|metastas[ei]s|tumou?rs?|cysts?|observations?)\b",
    re.I,
)
QUALIFIED = re.compile(
    r"\b(other|second|further|additional|new|suspicious|enlarged|significant|acute|large|gross|definite|focal|more|residual|recurrent|displaced|underlying|aggressive|worrisome)\b",
    re.I,
)
"""Words that narrow a denial: `no further lesion` denies none that was named."""


@dataclass(frozen=True)
class Mention:
    """One finding in one sentence. `english` is the sentence with its terms in English."""

    sentence: Sentence
    finding: str
    certainty: str
    sites: frozenset[str]
    sides: frozenset[str]
    sizes: tuple[Size, ...]
    count: int | None
    qualified: bool
    english: str

    @property
    def there(self) -> bool:
        """True where the sentence says that it is there, with or without doubt."""
        return self.certainty != "negated"

    @property
    def organs(self) -> frozenset[str]:
        """The organs of its sites."""
        return frozenset(_ORGAN_OF.get(s, s) for s in self.sites)

    def may_be(self, other: "Mention") -> bool:
        """True where the two may speak of the same thing: same finding, and sites that don't exclude each other."""
        if self.finding != other.finding:
            return False
        return not self.sites or not other.sites or bool(self.sites & other.sites) or self.within(other) or other.within(self)

    def within(self, other: "Mention") -> bool:
        """True where this one's sites are all parts of an organ that the other names."""
        return bool(self.sites) and self.sites != other.sites and other.sites <= self.organs


def mentions(sentence: Sentence, language: str) -> tuple[Mention, ...]:
    """The findings that a sentence speaks of; each clause has its own sides and sizes."""
    return _mentions(sentence, language)


@lru_cache(maxsize=8192)
def _mentions(sentence: Sentence, language: str) -> tuple[Mention, ...]:
    english = glossed(sentence.text, language) if language != "en" else sentence.text
    found = []
    for name, pattern in FINDINGS.items():
        match = re.search(pattern, english, re.I)
        if match is None:
            continue
        if language == "en":
            certainty = certainty_of(english, match.start(), match.end())
        else:
            certainty = read(sentence.text).certainty
            certainty = "negated" if certainty_of(english, match.start(), match.end()) == "negated" else certainty
        if re.search(r"\bnot\b", match.group(0), re.I):  # the midline is not shifted
            certainty = "negated"
        sizes = tuple(s for s in read(sentence.text).sizes if not s.prior)
        head = english[max(0, match.start() - 40) : match.start()]
        clause = _clause(english, match.start(), match.end())
        near, whole = _sites(clause), _sites(english)
        own_sides = sides(clause) if language == "en" else frozenset()
        found.append(
            Mention(sentence, name, certainty, near or whole, own_sides or read(sentence.text).sides, sizes, _count(english) if name == "lesion" else None,
                    bool(QUALIFIED.search(head)), english)
        )  # fmt: skip
    return tuple(found)


_CLAUSES = re.compile(r"[,;]| with (?!out)| and ")


def _clause(english: str, start: int, end: int) -> str:
    """The clause around characters [start, end): a finding takes the side and site that stand in its own."""
    before = [m.end() for m in _CLAUSES.finditer(english, 0, start)]
    after = _CLAUSES.search(english, end)
    return english[before[-1] if before else 0 : after.start() if after else len(english)]


def _sites(text: str) -> frozenset[str]:
    return frozenset(n for n, p in SITES.items() if re.search(p, text, re.I))


def _count(english: str) -> int | None:
    match = _COUNTED.search(english)
    if match is None:
        return None
    said = match.group(1).lower()
    return _COUNT.get(said, int(said) if said.isdigit() else None)
