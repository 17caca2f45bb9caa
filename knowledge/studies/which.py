"""Which series is which: MR sequence, CT phase, plane, contrast, body part; from the header's words and physics, with the reasons.

Words are read first; where timing contradicts them, timing wins and both are named: a protocol's name is typed by a person and kept
when the protocol changes. Timing limits are the usual textbook ranges for spin-echo imaging, used as engineering thresholds; how
often they are right on real series is measured in `docs/intake.md`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from knowledge.studies.stacks import plane_of

SHORT_TE, LONG_TE, SHORT_TR, LONG_TR = 30.0, 70.0, 1000.0, 2000.0  # ms
FLAIR_TI = (1500.0, 3200.0)
"""Inversion times (ms) that null cerebrospinal fluid at 1 to 3 tesla; shorter ones are T1 (MPRAGE) or fat suppression (STIR)."""

# Order matters: T1c before T1, FLAIR before T2 (descriptions such as "T2 FLAIR", "t1 post").
_SEQUENCES = [
    ("FLAIR", r"flair|(?<![a-z])fla(?![a-z])|dark.?fluid|tirm"),
    ("ADC", r"(?<![a-z])adc(?![a-z])|apparent.?diffusion"),
    ("DWI", r"(?<![a-z])dwi(?![a-z])|diff(?![a-z])|diffusion|(?<![a-z])b1000(?!\d)|ep2d.diff|(?<![a-z])dti(?![a-z])"),
    ("SWI", r"(?<![a-z])swi(?![a-z])|suscept|(?<![a-z])swan(?![a-z])"),
    ("perfusion", r"perf(?!o)|(?<![a-z])(dsc|dce|pwi|asl)(?![a-z])"),
    ("T1c", r"t1.?(c|ce|gd|gad|km)(?![a-z])|t1.{0,20}(post|contrast|\+c|\+gd|gad)|(post|contrast).{0,20}t1|(?<![a-z])t1wce"),
    ("T1", r"(?<![a-z])t1(?!\d)|mprage|spgr|bravo|(?<![a-z])mp2rage"),
    ("T2*", r"(?<![a-z])t2.?(\*|star)|(?<![a-z])gre.{0,4}t2|hemo"),
    ("T2", r"(?<![a-z])t2(?!\d)"),
    ("PD", r"(?<![a-z])pd(?![a-z])|proton.?dens"),
]
_PHASES = [
    (
        "native",
        r"native|nativ|non.?contrast|without.contrast|unenhanced|pre.?contrast|w/?o.?(contrast|iv)|(?<![a-z])(nc|ohne)(?![a-z])",
    ),
    ("arterial", r"arteri"),
    ("portal venous", r"portal|venous|ven[oö]s|(?<![a-z])pv(?![a-z])"),
    ("delayed", r"delay|late|excret|sp[aä]t|equilib"),
]
_BODY_PARTS = {"BRAIN": r"brain|head|cereb|neuro|skull|brats|kopf|schädel|(?<![a-z])cr[aâ]ni", "CHEST": r"chest|thora|lung|(?<![a-z])thx",
               "BREAST": r"breast|mamm", "ABDOMEN": r"abdom|liver|hepat|renal|kidney|pancrea|leber|niere", "PROSTATE": r"prostat",
               "NECK": r"thyroid|neck|cervic", "PELVIS": r"pelvi|becken", "SPINE": r"spine|lumbar|wirbel"}  # fmt: skip
_CONTRAST = r"contrast|(?<![a-z])(gd|gad|km|ce|iv|c\+)(?![a-z])|enhanced|post.?(gd|con)"
_NO_CONTRAST = r"non.?contrast|without|unenhanced|pre.?contrast|native|w/?o"


@dataclass(frozen=True)
class Which:
    """What a series is; None where nothing says it. `reasons` say why."""

    sequence: str | None = None
    plane: str | None = None
    phase: str | None = None
    contrast: bool | None = None
    body_part: str = ""
    reasons: list[str] = field(default_factory=list)


def sequence_of(text: str, contrast_agent: str = "") -> str | None:
    """The sequence named in `text`: T1, T1c, T2, FLAIR, DWI, ADC …; None when it names none.

    A `contrast_agent` (DICOM 0018,0010) turns T1 into T1c.
    """
    named = _named(text, _SEQUENCES)
    return "T1c" if named == "T1" and contrast_agent.strip() else named


def body_part_of(text: str) -> str:
    """The body part named in `text`, or an empty string."""
    return next((part for part, pattern in _BODY_PARTS.items() if re.search(pattern, text.lower())), "")


def _named(text: str, patterns: list[tuple[str, str]]) -> str | None:
    return next((name for name, pattern in patterns if re.search(pattern, text.lower())), None)


def which(
    modality: str, words: str, header: Mapping[str, Any], body_part: str = "", orientation: Sequence[float] | None = None
) -> Which:
    """What a DICOM series is by its words (descriptions) and its technical header."""
    reasons: list[str] = []
    agent = str(header.get("ContrastBolusAgent") or "")
    contrast = _contrast(words, agent, reasons)
    sequence = _mr(words, agent, header, contrast, reasons) if modality == "MR" else None
    if sequence == "T1c":
        contrast = True
    phase = None
    if modality == "CT":
        phase = _named(words, _PHASES)
        if phase:
            reasons.append(f"phase {phase}: named in the description")
    plane = plane_of(orientation)
    if plane:
        reasons.append(f"plane {plane}: by ImageOrientationPatient")
    part = body_part_of(body_part) or body_part.upper()
    if part:
        reasons.append(f"body part {part}: by BodyPartExamined")
    elif part := body_part_of(words):
        reasons.append(f"body part {part}: named in the description")
    elif sequence == "FLAIR":
        part = "BRAIN"
        reasons.append("body part BRAIN: FLAIR is a technique of the brain")
    return Which(sequence, plane, phase, contrast, part, reasons)


def _contrast(words: str, agent: str, reasons: list[str]) -> bool | None:
    if agent.strip():
        none = bool(re.fullmatch(r"(none|no|n/?a|without|-+)", agent.strip().lower()))
        reasons.append("contrast: ContrastBolusAgent says none" if none else "contrast: ContrastBolusAgent is stated")
        return not none
    lowered = words.lower()
    if re.search(_NO_CONTRAST, lowered):
        reasons.append("no contrast: named in the description")
        return False
    if re.search(_CONTRAST, lowered) or sequence_of(words) == "T1c":
        reasons.append("contrast: named in the description")
        return True
    return None


def _mr(words: str, agent: str, header: Mapping[str, Any], contrast: bool | None, reasons: list[str]) -> str | None:
    named = sequence_of(words, agent if contrast else "")
    types = [str(t).upper() for t in header.get("ImageType") or []]
    if "ADC" in types:
        reasons.append("sequence ADC: by ImageType")
        return "ADC"
    if any("DIFFUSION" in t or t == "TRACEW" for t in types) or _first(header.get("DiffusionBValue")):
        named = "DWI" if named in (None, "T2", "T2*") else named
    timed = timed_sequence(header)
    if named is None and timed is None:
        return None
    if named is None:
        sequence = "T1c" if timed == "T1" and contrast else timed
        reasons.append(f"sequence {sequence}: {_timing(header)}")
        return sequence
    family = {"T1c": "T1"}.get(named, named)
    if timed is None or timed == family or family not in ("T1", "T2", "FLAIR", "PD"):
        reasons.append(
            f"sequence {named}: named in the description" + (f", and {_timing(header)} agrees" if timed == family else "")
        )
        return named
    sequence = "T1c" if timed == "T1" and contrast else timed
    reasons.append(f"sequence {sequence}: {_timing(header)}, although the description names {named}")
    return sequence


def _first(value: Any) -> float | None:
    if isinstance(value, list):
        value = value[0] if value else None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def timed_sequence(header: Mapping[str, Any]) -> str | None:
    """T1, T2, PD or FLAIR by repetition, echo and inversion time; None where they decide nothing (gradient echoes, echo planar)."""
    tr, te, ti = (_first(header.get(k)) for k in ("RepetitionTime", "EchoTime", "InversionTime"))
    kinds = header.get("ScanningSequence") or []
    kinds = {str(k) for k in (kinds if isinstance(kinds, list) else [kinds])}
    if tr is None or te is None or "EP" in kinds:
        return None
    if ti is not None and FLAIR_TI[0] <= ti <= FLAIR_TI[1] and tr > 2 * ti:
        return "FLAIR" if te > LONG_TE else None  # a T1 FLAIR has the same inversion time and a short echo
    if "GR" in kinds:
        return "T1" if ("IR" in kinds or ti) and te < 10 else None  # inversion-prepared gradient echoes (MPRAGE, IR-SPGR)
    if ti:
        return None
    if te < SHORT_TE and tr < SHORT_TR:
        return "T1"
    if tr > LONG_TR:
        return "T2" if te > LONG_TE else "PD" if te < SHORT_TE else None
    return None


def _timing(header: Mapping[str, Any]) -> str:
    ti = header.get("InversionTime")
    return f"TR {header.get('RepetitionTime')} ms, TE {header.get('EchoTime')} ms" + (f", TI {ti} ms" if ti else "")
