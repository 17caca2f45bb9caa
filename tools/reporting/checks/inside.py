"""A report against itself: sides, sizes, units, counts, what is said and denied, sections."""

import re
from collections.abc import Iterator

from knowledge.records.reading import Size
from knowledge.records.reading import sizes as sizes_in
from knowledge.records.reports import Sentence
from tools.reporting.checks.mentions import Mention
from tools.reporting.checks.model import CLOSING, Context, Issue

NODULE_MM = 30.0
"""A pulmonary nodule is at most 3 cm (Fleischner Society: glossary of terms for thoracic imaging); a larger one is called a mass."""
ROUNDING = 0.1
"""Sizes that differ by no more than this share, or by 1 mm, are the same size rounded."""


def sides(context: Context) -> Iterator[Issue]:
    """A finding whose side in the conclusion isn't the one before it."""
    for closing in _there(context.closing):
        if not _one_sided(closing) or closing.finding == "midline shift":  # whose direction isn't the side of what causes it
            continue
        same = [m for m in _there(context.opening) if m.may_be(closing) and m.sides]
        sized = [m for m in same if any(_same_size(a, b) for a in m.sizes for b in closing.sizes)]
        same = sized or same  # the lesion of this size, where the findings have one
        named = {s for m in same for s in m.sides}
        if same and not (closing.sides & named) and "both" not in named:
            other = same[0]
            side = " and ".join(sorted(named))
            yield _issue("side", "critical", closing.sentence, other.sentence,
                         f"The conclusion says {_only(closing)}, the findings say {side} for the {closing.finding}.",
                         _swapped(closing.sentence.text, closing, named))  # fmt: skip
    yield from _sides_within(context)


def _sides_within(context: Context) -> Iterator[Issue]:
    """A sentence that puts a lobe on a side that has none (left middle lobe), or the two sides of one thing in one section."""
    for mention in context.mentions:
        if mention.sides == {"left"} and re.search(r"\bmiddle lobe\b", mention.english, re.I):
            yield Issue(kind="side", severity="major", start=mention.sentence.start, end=mention.sentence.end,
                        message="The left lung has no middle lobe.", suggestion="right middle lobe, or lingula")  # fmt: skip
    opening = [m for m in _there(context.opening) if m.finding == "lesion" and _one_sided(m) and m.sizes and m.sites]
    for here in opening:
        for there in opening:
            if here.sentence.start < there.sentence.start and here.sites == there.sites and here.sides != there.sides and (
                here.sizes[0].mm and here.sizes[0].mm == there.sizes[0].mm):  # fmt: skip
                yield _issue("side", "major", there.sentence, here.sentence,
                             f"The same size and site stand on the {_only(here)} and on the {_only(there)}.", "")  # fmt: skip


def sizes(context: Context) -> Iterator[Issue]:
    """A size in the conclusion that the findings don't have."""
    for closing in _there(context.closing):
        for size in closing.sizes:
            told = [(m, s) for m in _there(context.opening) if m.finding == closing.finding for s in m.sizes if s.mm]
            told += [
                (closing, s)
                for sentence in context.body
                if sentence.part not in CLOSING
                for s in sizes_in(sentence.text)
                if s.mm and not s.prior
            ]
            if not size.mm or not told or any(_same_size(size, s) for _, s in told):
                continue
            if any(_same_number(size, s) for _, s in told):
                continue  # a unit, not a size
            nearest = min((s for _, s in told), key=lambda s: abs(s.mm[0] - size.mm[0]))
            start = closing.sentence.start
            place = _find(context.report.text, size.written, start, closing.sentence.end)
            yield Issue(kind="size", severity="major", start=place[0], end=place[1],
                        message=f"The conclusion gives {size.written}, the findings {nearest.written}.", suggestion=nearest.written,
                        other=_sentence_of(context, nearest))  # fmt: skip


def _sentence_of(context: Context, size: Size) -> tuple[int, int] | None:
    return next(((s.start, s.end) for s in context.body if size.written in s.text and s.part not in CLOSING), None)


def units(context: Context) -> Iterator[Issue]:
    """The same number in another unit, a nodule too large to be one, a length in millilitres, a size without unit."""
    said: list[tuple[Sentence, Size]] = [(s, z) for s in context.body for z in sizes_in(s.text)]
    for sentence, size in said:
        if not size.mm:
            continue
        twin = next(
            (
                z
                for s, z in said
                if z is not size and _same_number(size, z) and not _same_size(size, z) and s.start != sentence.start
            ),
            None,
        )
        place = _find(context.report.text, size.written, sentence.start, sentence.end)
        nodule = re.search(r"\bnodul|\bnódul|\brundherd|结节", sentence.text, re.I) and size.mm[0] > NODULE_MM
        concludes, other_concludes = sentence.part in CLOSING, twin is not None and _part(context, twin) in CLOSING
        if twin is not None and (concludes > other_concludes or (concludes == other_concludes and size.mm[0] > twin.mm[0])):
            yield Issue(kind="unit", severity="critical", start=place[0], end=place[1],
                        message=f"{size.written} here, {twin.written} elsewhere: the same number in two units.", suggestion=twin.written)  # fmt: skip
        elif nodule or size.mm[0] > 400:
            changed = size.written.replace("cm", "mm").replace("厘米", "毫米")
            yield Issue(kind="unit", severity="major", start=place[0], end=place[1],
                        message=f"{size.written} is more than a {'nodule' if nodule else 'lesion'} measures; the unit may be wrong.",
                        suggestion=changed if changed != size.written else "")  # fmt: skip
    for sentence in context.body:
        wrong = re.search(
            r"\b(?:diameter|length|thickness|durchmesser|diamètre|diámetro)\b[^.;\d]{0,24}\d+(?:[.,]\d+)?\s*(?:ml|cc)\b",
            sentence.text,
            re.I,
        )
        wrong = wrong or re.search(
            r"\b(?:volume|volumen)\b[^.;\d]{0,24}\d+(?:[.,]\d+)?\s*(?:mm|cm)(?![²³23\w])(?!\s*x)", sentence.text, re.I
        )
        bare = re.search(
            r"\b(?:measur\w+|misst|mesure|mide|size of)\s+(?:about |approximately |up to )?\d+(?:[.,]\d+)?(?:\s*[x×]\s*\d+(?:[.,]\d+)?){0,2}(?=\s*(?:[.;,)]|in\b|with\b|and\b|$))",
            sentence.text,
            re.I,
        )
        if wrong:
            yield Issue(kind="unit", severity="major", start=sentence.start + wrong.start(), end=sentence.start + wrong.end(),
                        message=f"The unit doesn't go with what is measured: {wrong.group(0)}.", suggestion="")  # fmt: skip
        elif bare:
            yield Issue(kind="unit", severity="major", start=sentence.start + bare.start(), end=sentence.start + bare.end(),
                        message=f"A size without a unit: {bare.group(0)}.", suggestion=f"{bare.group(0)} mm")  # fmt: skip


def _part(context: Context, size: Size) -> str:
    """The section in which a size stands."""
    return next((s.part for s in context.body if any(z == size for z in sizes_in(s.text))), "")


def counts(context: Context) -> Iterator[Issue]:
    """A number of lesions in the conclusion that the findings contradict."""
    told = [m for m in _there(context.opening) if m.finding == "lesion" and m.count]
    for closing in _there(context.closing):
        if closing.finding != "lesion" or not closing.count:
            continue
        same = [m for m in told if m.may_be(closing)]
        if (
            same
            and closing.count not in {m.count for m in same}
            and not (len(same) > 1 and closing.count == sum(m.count or 0 for m in same))
        ):
            yield _issue("count", "major", closing.sentence, same[0].sentence,
                         f"The conclusion counts {closing.count}, the findings {same[0].count}.", "")  # fmt: skip


def contradictions(context: Context) -> Iterator[Issue]:
    """What is said in one place and denied in another; an organ called normal that has a lesion."""
    for denied in context.mentions:
        if denied.there or denied.qualified:
            continue
        for said in context.mentions:
            if not said.there or said.sentence.start == denied.sentence.start or not said.may_be(denied) or said.qualified:
                continue
            if denied.sides and said.sides and not denied.sides & said.sides:
                continue
            if said.finding == "lesion" and not _comparable(said, denied):
                continue
            first, second = sorted((said.sentence, denied.sentence), key=lambda s: s.start)
            yield _issue(
                "contradiction", "critical", second, first, f"One sentence denies {said.finding}, another states it.", ""
            )
            break
    for sentence in context.body:
        normal = re.search(r"\b(?:the )?(liver|kidneys?|brain|breasts?|prostate|thyroid|lungs?|spleen|pancreas)\b[^.;]{0,24}\b(?:is|are|:)?\s*(?:normal|unremarkable|clear)\b(?! (?:size|width|in size|limits))",
                           sentence.text, re.I)  # fmt: skip
        if normal is None or re.search(r"\b(otherwise|remainder|rest|elsewhere|apart|except)\b", sentence.text, re.I):
            continue
        organ = normal.group(1).lower().rstrip("s")
        for said in context.mentions:
            if said.there and said.finding == "lesion" and said.sentence.start != sentence.start and organ in said.organs and not said.qualified and (
                not said.sides or not (own := {w for w in ("left", "right") if re.search(rf"\b{w}\b", sentence.text, re.I)}) or said.sides & own):  # fmt: skip
                first, second = sorted((said.sentence, sentence), key=lambda s: s.start)
                yield _issue(
                    "contradiction", "critical", second, first, f"The {normal.group(1)} is called normal and has a lesion.", ""
                )
                break


def _comparable(said: Mention, denied: Mention) -> bool:
    """Of lesions: the same word, or a denial of all of them in the same organ."""
    words = re.compile(r"\b(mass|lesion|tumou?r|nodule|cyst|metasta|observation|opacit|foc(?:us|i))", re.I)
    own, other = ({w.lower()[:5] for w in words.findall(m.english)} for m in (said, denied))
    same_place = bool(said.sites & denied.sites) or said.within(denied) or denied.within(said) or not denied.sites
    return same_place and bool(
        own & other or "lesio" in other or ("mass" in other & {"mass"} and own & {"tumor", "tumou", "mass"})
    )


_NEEDED = (
    ("FINDINGS", "major"),
    ("IMPRESSION", "major"),
    ("INDICATION", "minor"),
    ("TECHNIQUE", "minor"),
    ("COMPARISON", "minor"),
)
"""Sections of a report (RSNA's reporting templates name the same five); the first two are what it is for."""


def sections(context: Context) -> Iterator[Issue]:
    """Sections that aren't there."""
    there = {s.part for s in context.sentences}
    there |= {"IMPRESSION"} if there & set(CLOSING) else set()
    lacking = [(name, severity) for name, severity in _NEEDED if name not in there]
    if any(s.part == "SPECIMEN" or s.part == "MICROSCOPY" for s in context.sentences):
        return
    if not lacking:
        return
    line = context.report.text.strip().split("\n", 1)[0]
    start = context.report.text.find(line)
    names = [n for n, _ in lacking]
    yield Issue(kind="section", severity="major" if any(s == "major" for _, s in lacking) else "minor", start=start, end=start + min(len(line), 80),
                message=f"No heading for: {', '.join(names).lower()}.", suggestion="\n".join(f"{n}:" for n in names))  # fmt: skip


def _there(found: list[Mention]) -> list[Mention]:
    return [m for m in found if m.there]


def _one_sided(mention: Mention) -> bool:
    return len(mention.sides) == 1 and "both" not in mention.sides


def _only(mention: Mention) -> str:
    return " and ".join(sorted(mention.sides))


def _swapped(text: str, mention: Mention, named: set[str]) -> str:
    (side,) = mention.sides
    (other,) = named if len(named) == 1 else ("",)
    return re.sub(rf"\b{side}\b", other, text, count=1, flags=re.I) if other and re.search(rf"\b{side}\b", text, re.I) else ""


def _same_size(one: Size, other: Size) -> bool:
    return bool(one.mm and other.mm) and any(abs(a - b) <= max(1.0, ROUNDING * max(a, b)) for a in one.mm[:1] for b in other.mm)


def _same_number(one: Size, other: Size) -> bool:
    """True for 12 mm and 12 cm."""
    digits = [re.findall(r"\d+(?:[.,]\d+)?", s.written) for s in (one, other)]
    return digits[0] == digits[1] and bool(digits[0])


def _find(text: str, written: str, start: int, end: int) -> tuple[int, int]:
    at = text.find(written, start, end)
    return (at, at + len(written)) if at >= 0 else (start, end)


def _issue(kind: str, severity: str, here: Sentence, other: Sentence, message: str, suggestion: str) -> Issue:
    return Issue(kind=kind, severity=severity, start=here.start, end=here.end, message=message, suggestion=suggestion,  # type: ignore[arg-type]
                 other=(other.start, other.end))  # fmt: skip
