"""`compare_studies`: the same lesions from study to study, how they changed, against what the measurements themselves leave open."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from knowledge.case import Case
from knowledge.evidence import Course as Curve
from knowledge.evidence import CourseLine, CoursePoint, Fact, ImageRef, Kind
from knowledge.guidelines.rules import RULES
from knowledge.response.model import State
from knowledge.studies.model import Study
from tools.base import Card, CaseTool, Cost, Missing, Needs, Reply, Said
from tools.concepts import ALIGNMENT, CHANGE, COURSE, DOUBLING_TIME, INTERVAL, LESION_EVENT
from tools.course.following import Course, Track, alike, as_dict, follow, quality_words
from tools.course.matching import Event
from tools.errors import NotApplicable


class CompareArguments(BaseModel):
    """Which studies, and which region."""

    model_config = ConfigDict(extra="forbid")
    studies: list[str] = Field(
        default_factory=list,
        max_length=12,
        description="Handles of the studies (S1, S2); left out: all dated ones of the newest study's body part.",
    )
    target: str | None = Field(
        None, max_length=60, description="Lesions to compare: words of an outline's label, whole tumour …; left out: all lesions."
    )


QUANTITIES: dict[str, tuple[str, str]] = {
    "volume": ("volume", "mL"),
    "diameter": ("longest axial diameter", "mm"),
    "short": ("short axis", "mm"),
    "product": ("product of the two diameters", "mm²"),
}
"""What is compared: its name in a sentence, and its unit."""
TOLD = 6
"""Lesions that are told one by one, with all quantities; of the others the diameter alone."""


class CompareStudies(CaseTool):
    """Lesions followed through dated studies."""

    name: str = "compare_studies"
    description: str = (
        "Compare dated studies of one body part: lesions matched one by one after registration (same, new, gone, split, merged), change in "
        "diameter, product and volume (%) and whether it exceeds the measurements' own doubt, doubling time, the course over several studies."
    )
    args_schema: type[BaseModel] = CompareArguments
    asks: ClassVar[list[str]] = [
        "Has it grown since the last scan?", "Compare with the prior study", "Is it bigger than before?", "What changed since March?",
        "Is the tumour shrinking under treatment?", "How fast does it grow?", "Follow the lesion over time", "Compare the two MRIs",
        "Is this progression or pseudoprogression?", "Response compared to baseline", "What is the doubling time?", "Show me the course",
        "Are there new lesions?", "Which lesions are gone?", "How did the lesions develop over the last three scans?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs(modality=["MR", "CT"], sequences=["FLAIR"])
    gives: ClassVar[list[Kind]] = [Kind.MEASUREMENT, Kind.FINDING]
    card: ClassVar[Card] = Card(
        intended_use="The same lesions of one patient from study to study, and how far their change exceeds what their outlines leave open.",
        accuracy="Made follow-up pairs of real volumes with known truth: match F1, error of change and false growth as in docs/course.md (`make eval`).",
        limits="As good as the outlines. Sizes are measured on each study's own grid; registration serves matching and side-by-side pictures alone. "
        "A change within the doubt of both outlines is called that; studies that can't be brought together are refused with the reason.",
        version="2",
    )  # fmt: skip
    cost: ClassVar[Cost] = Cost(seconds=10, memory_mb=2000)

    def answer(self, arguments: CompareArguments) -> Reply:
        studies = comparable(self.bench.required_case, arguments.studies)
        course = follow(self.bench, studies, arguments.target)
        teller = _Teller(course, (self.name, self.card.version))
        last = len(studies) - 1
        facts: list[Fact] = []
        missing = list(course.missing)
        for before, after in pairwise(range(len(studies))):
            facts.append(teller.interval(before, after))
            facts.append(teller.alignment(before, after))
            facts += teller.events(before, after)
            missing += teller.unlike(before, after)
        if last > 1:
            facts.append(teller.interval(0, last))
            facts += teller.curves()
        for before, after in [(0, last)] if last == 1 else [*pairwise(range(last + 1)), (0, last)]:
            facts += teller.changes(before, after, brief=last > 1 and (before, after) != (0, last))
        ordered = sorted(studies, key=lambda s: arguments.studies.index(s.handle) if s.handle in arguments.studies else 0)
        if [s.handle for s in ordered] != [s.handle for s in studies]:
            missing.append(Missing(what="the studies in the order of their dates", why=f"they were named as {', '.join(arguments.studies)}; they were "
                                   f"compared from {studies[0].handle} ({studies[0].date}) to {studies[-1].handle} ({studies[-1].date})",
                                   would_change="nothing: time goes from the earlier to the later date"))  # fmt: skip
        return Reply(text="\n".join(f.statement for f in facts), facts=facts, missing=missing, said=teller.said(facts))


def comparable(case: Case, handles: Sequence[str]) -> list[Study]:
    """Dated studies of one body part, earliest first: those named, else all of the newest one's. Raises NotApplicable with the reason."""
    images = [s for s in case.studies if set(s.image_modalities) - {"SR"}]
    if handles:
        named = [h.split(".")[0] for h in handles]
        if len(named) > 1 and len(set(named)) == 1:
            raise NotApplicable(
                f"{named[0]} was named twice: there are no two dated studies to compare",
                "name an earlier or a later examination too",
            )
        chosen = list({h: case.study(h) for h in named}.values())
    else:
        newest = max(images, key=lambda s: s.date or "", default=None)
        chosen = [s for s in images if newest is not None and s.body_part == newest.body_part and s.date]
    parts = sorted({s.body_part or "not stated" for s in chosen})
    if len(parts) > 1:
        raise NotApplicable(f"the studies show different body parts ({', '.join(parts)})", "name two studies of one body part")
    undated = [s.handle for s in chosen if not s.date or len(s.date) != 10]
    if undated:
        raise NotApplicable(
            f"{', '.join(undated)} has no whole date, so change over time can't be stated", "give the study a date"
        )
    chosen = sorted(chosen, key=lambda s: s.date or "")
    if len({s.date for s in chosen}) < 2:
        raise NotApplicable("there are no two dated studies of this region", "add an earlier examination with its date")
    same = sorted({s.handle for a, s in pairwise(chosen) if a.date == s.date})
    if same:
        raise NotApplicable(f"{', '.join(same)} has the date of another one, so their order isn't known", "name one study a day")
    return chosen


class _Teller:
    """Sentences and facts about a course. `tool`: name and version, for what is found."""

    def __init__(self, course: Course, tool: tuple[str, str]) -> None:
        self.course, self.tool = course, tool
        self.days = [f.day for f in course.founds]
        self.handles = [f.study.handle for f in course.founds]
        self.doubts = [self._protocols(k, k + 1) for k in range(len(self.handles) - 1)]

    def pair(self, before: int, after: int) -> str:
        """S1 to S2."""
        return f"{self.handles[before]} to {self.handles[after]}"

    def dated(self, before: int, after: int) -> str:
        """S1 (2026-01-02) to S2 (2026-03-02)."""
        return f"{self.handles[before]} ({self.days[before]}) to {self.handles[after]} ({self.days[after]})"

    def called(self, track: Track) -> str:
        """A lesion in a sentence: the tumour where there is one alone, else L1 with its organ."""
        if len(self.course.tracks) == 1:
            seen = track.seen[0]
            return "outlined lymph node" if seen.node else "outlined tumour" if not seen.drawn else "outlined lesion"
        return f"lesion {track.called} ({track.organ})" if track.organ else f"lesion {track.called}"

    def _ref(self, k: int, track: Track | None = None) -> ImageRef:
        shown = track or next((t for t in self.course.tracks if t.parts[k]), self.course.tracks[0])
        return self.course.ref(shown, k, self.tool)

    def _beside(self, track: Track, others: Sequence[int]) -> list[ImageRef]:
        return self.course.beside(track, others, self.tool)

    def interval(self, before: int, after: int) -> Fact:
        """Days between two studies."""
        days = (self.days[after] - self.days[before]).days
        return Fact(kind=Kind.MEASUREMENT, title=f"Interval {self.pair(before, after)}", statement=f"{days} days lie between {self.dated(before, after).replace(' to ', ' and ')}.",
                    value=days, unit="d", code=INTERVAL, source=self._ref(after))  # fmt: skip

    def alignment(self, before: int, after: int) -> Fact:
        """How the two studies were brought together, and how well."""
        quality = self.course.alignments[before].quality
        statement = f"Study {self.handles[after]} was brought together with {self.handles[before]} {quality_words(quality)}."
        return Fact(kind=Kind.FINDING, title=f"Alignment {self.pair(before, after)}", statement=statement, value=as_dict(quality), code=ALIGNMENT,
                    source=self._ref(after), beside=[self._ref(before)])  # fmt: skip

    def events(self, before: int, after: int) -> list[Fact]:
        """What became of each lesion: new, gone, split, merged, not covered; and how many are the same."""
        found: list[Fact] = []
        same = [t for t in self.course.tracks if t.events[after] is Event.SAME and t.parts[after]]
        for track in self.course.tracks:
            told = self._event(track, before, after)
            if told:
                words, value = told
                shown = after if track.parts[after] else before if track.parts[before] else after
                other = before if shown == after else after
                found.append(Fact(kind=Kind.FINDING, title=f"{track.called} {value} {self.pair(before, after)}", statement=words,
                                  value={"lesion": track.called, "event": value, "tracking_uid": track.name.uid if track.name else None},
                                  code=LESION_EVENT, source=self._ref(shown, track), beside=self._beside(track, [other])))  # fmt: skip
        if len(self.course.tracks) > 1:
            names = ", ".join(t.called for t in same) or "none"
            counts = [sum(1 for t in self.course.tracks if t.parts[k]) for k in (before, after)]
            statement = f"{counts[0]} lesions are outlined on {self.handles[before]} and {counts[1]} on {self.handles[after]}; the same on both: {names}."
            found.insert(0, Fact(kind=Kind.FINDING, title=f"Lesions {self.pair(before, after)}", statement=statement,
                                 value={"before": counts[0], "after": counts[1], "same": [t.called for t in same]}, code=LESION_EVENT,
                                 source=self._ref(after), beside=[self._ref(before)]))  # fmt: skip
        return found

    def _event(self, track: Track, before: int, after: int) -> tuple[str, str] | None:
        event, name, now, then = (
            track.events[after],
            self.called(track).capitalize().replace("Lesion l", "Lesion L"),
            self.handles[after],
            self.handles[before],
        )
        if event is Event.NEW:
            size = track.total(after, "diameter")
            return (
                f"{name} is new on {now}: {then} shows its place without it; its longest axial diameter is {size:.1f} mm.",
                "new",
            )
        if event is Event.GONE:
            return f"{name} is gone on {now}: its place is shown, nothing is outlined there.", "gone"
        if event is Event.SPLIT:
            return f"{name} lies in {len(track.parts[after])} parts on {now}; on {then} it was one.", "split"
        if event is Event.MERGED:
            return f"{name} has grown together with another lesion on {now}.", "merged"
        if event is Event.NOT_COVERED:
            lacking = then if track.parts[after] else now
            return f"{name} can't be followed from {then} to {now}: {lacking} doesn't show its place.", "not covered"
        return None

    def changes(self, before: int, after: int, brief: bool = False) -> list[Fact]:
        """How each lesion that both studies show has changed, the largest first."""
        both = [t for t in self.course.tracks if t.parts[before] and t.parts[after]]
        both.sort(key=lambda t: -t.total(after, "volume"))
        found: list[Fact] = []
        for number, track in enumerate(both):
            node = track.seen[0].node
            wanted = ["volume", "diameter", *(["short"] if node else ["product"])]
            if number >= TOLD or brief:
                wanted = ["short" if node else "diameter"]
            found += [self._change(track, before, after, q) for q in wanted]
            if not brief and (rate := self._doubling(track, before, after)):
                found.append(rate)
        return found

    def _change(self, track: Track, before: int, after: int, quantity: str) -> Fact:
        words, unit = QUANTITIES[quantity]
        old, new = track.total(before, quantity), track.total(after, quantity)
        percent = round(100 * (new - old) / old, 1)
        low, high = track.span(before, quantity), track.span(after, quantity)
        least, most = (round(100 * (n - o) / o, 1) for n, o in ((high[0], low[1]), (high[1], max(low[0], 1e-6))))
        beyond = least > 0 or most < 0
        verdict = "more than the doubt of both outlines" if beyond else "within the doubt of both outlines"
        how = "grew" if percent > 0 else "shrank" if percent < 0 else "did not change"
        by = f" by {abs(percent):g} %" if percent else ""
        doubt = list(dict.fromkeys(w for k in range(before, after) for w in self.doubts[k]))
        weaker = f" The studies were made differently ({'; '.join(doubt)}), which weakens this." if doubt else ""
        digits = 2 if quantity == "volume" and min(old, new) < 1 else 1
        statement = (f"From {self.dated(before, after)} the {words} of the {self.called(track)} {how}{by}, from {old:.{digits}f} to {new:.{digits}f} {unit}, "
                     f"which is {verdict} ({least:g} to {most:g} %).{weaker}")  # fmt: skip
        suffix = "" if len(self.course.tracks) == 1 else f" of {track.called}"
        others = [k for k in range(len(self.handles)) if k != after]
        return Fact(kind=Kind.MEASUREMENT, title=f"Change in {quantity} {self.pair(before, after)}{suffix}", statement=statement, value=percent, unit="%",
                    interval=[least, most], code=CHANGE[quantity], source=self._ref(after, track), beside=self._beside(track, others))  # fmt: skip

    def _doubling(self, track: Track, before: int, after: int) -> Fact | None:
        """By the rule of the guideline engine, where the growth exceeds the doubt."""
        if track.span(after, "volume")[0] <= track.span(before, "volume")[1]:
            return None
        days = (self.days[after] - self.days[before]).days
        volumes = [1000 * track.total(k, "volume") for k in (before, after)]
        outcome = RULES["volume_doubling_time"].apply(
            {"volume_1_mm3": volumes[0], "volume_2_mm3": volumes[1], "interval_days": days}
        )
        if "doubling_time_days" not in outcome.values:
            return None
        doubling = round(outcome.values["doubling_time_days"])
        suffix = "" if len(self.course.tracks) == 1 else f" of {track.called}"
        statement = (
            f"At the rate from {self.dated(before, after)} the volume of the {self.called(track)} doubles in {doubling} days."
        )
        return Fact(kind=Kind.MEASUREMENT, title=f"Volume doubling time {self.pair(before, after)}{suffix}", statement=statement, value=doubling, unit="d",
                    code=DOUBLING_TIME, source=self._ref(after, track), beside=self._beside(track, [before]))  # fmt: skip

    def curves(self) -> list[Fact]:
        """The course over more than two studies: longest diameters and volumes, each lesion a line, and their sum."""
        found = []
        for quantity in ("diameter", "volume"):
            words, unit = QUANTITIES[quantity]
            lines = [
                CourseLine(name=t.called, points=[self._point(t, k, quantity) for k in range(len(self.handles))])
                for t in self.course.tracks
            ]
            sums = [self._sum(k, lines) for k in range(len(self.handles))]
            if len(lines) > 1:
                lines.append(CourseLine(name="sum", points=sums))
            told = [(k, p.value) for k, p in enumerate(sums) if p.value is not None]
            if len(told) < 2:
                continue
            least = min(told, key=lambda x: x[1])[0]
            what = (
                f"sum of the {words}s of all lesions"
                if len(self.course.tracks) > 1
                else f"{words} of the {self.called(self.course.tracks[0])}"
            )
            values = ", ".join(f"{p.value:.1f} {unit} on {p.study} ({p.date})" for p in sums if p.value is not None)
            unseen = [p.study for p in sums if p.value is None]
            gap = f" Not all of them are shown on {', '.join(unseen)}." if unseen else ""
            newest = told[-1]
            statement = f"Course of the {what}: {values}; the smallest was on {self.handles[least]}.{gap}"
            found.append(Fact(kind=Kind.MEASUREMENT, title=f"Course of the {words}", statement=statement, value=round(newest[1], 2), unit=unit.replace("²", "2"),
                              code=COURSE, source=self._ref(newest[0]), beside=[self._ref(k) for k in range(len(self.handles)) if k != newest[0]],
                              course=Curve(quantity=words, unit=unit, lines=lines, baseline=self.handles[0], nadir=self.handles[least])))  # fmt: skip
        return found

    def _point(self, track: Track, k: int, quantity: str) -> CoursePoint:
        handle, day = self.handles[k], self.days[k].isoformat()
        if track.parts[k]:
            low, high = track.span(k, quantity)
            return CoursePoint(
                study=handle, date=day, value=round(track.total(k, quantity), 2), interval=[round(low, 2), round(high, 2)]
            )
        zero = track.states[k] in (State.GONE, State.NOT_YET, State.MERGED)
        return CoursePoint(study=handle, date=day, value=0.0 if zero else None, note=str(track.states[k]))

    def _sum(self, k: int, lines: list[CourseLine]) -> CoursePoint:
        values = [line.points[k].value for line in lines]
        told = [v for v in values if v is not None]
        spans = [line.points[k].interval or [line.points[k].value or 0.0] * 2 for line in lines]
        whole = len(told) == len(values)
        return CoursePoint(study=self.handles[k], date=self.days[k].isoformat(), value=round(sum(told), 2) if whole else None,
                           interval=[round(sum(s[0] for s in spans), 2), round(sum(s[1] for s in spans), 2)] if whole else None)  # fmt: skip

    def _protocols(self, before: int, after: int) -> list[str]:
        """How two examinations differ, as far as that touches sizes; each in words."""
        a, b = self.course.founds[before], self.course.founds[after]
        found = []
        thick = [round(max(f.image.spacing_mm or [0.0]), 1) for f in (a, b)]
        if abs(thick[0] - thick[1]) > 0.5:
            found.append(f"slices of {thick[0]:g} and {thick[1]:g} mm")
        if not alike(a, b):
            kinds = [f"{f.image.modality} {f.image.sequence or ''}".strip() for f in (a, b)]
            found.append(f"{kinds[0]} and {kinds[1]}")
        if a.image.contrast is not None and b.image.contrast is not None and a.image.contrast != b.image.contrast:
            found.append(
                f"contrast {'given' if a.image.contrast else 'not given'} and {'given' if b.image.contrast else 'not given'}"
            )
        for name, words in (
            ("ConvolutionKernel", "kernels"),
            ("MagneticFieldStrength", "field strengths"),
            ("KVP", "tube voltages"),
        ):
            values = [str(f.image.header.get(name) or "") for f in (a, b)]
            if all(values) and values[0] != values[1]:
                found.append(f"{words} {values[0][:16]} and {values[1][:16]}")
        makers = [sorted({"drawn by others" if x.drawn else x.by for x in f.lesions}) for f in (a, b)]
        if all(makers) and makers[0] != makers[1]:
            found.append("outlines of different makers")
        sequences = [{x.used for x in f.lesions} for f in (a, b)]
        if all(sequences) and sequences[0] != sequences[1]:
            found.append("outlines made from different sequences")
        return found

    def unlike(self, before: int, after: int) -> list[Missing]:
        """What would have to be alike for a surer comparison."""
        return [Missing(what=f"examinations made alike ({self.pair(before, after)})", why=w,
                        would_change="small changes of size could be told from the way of scanning or outlining") for w in self.doubts[before]]  # fmt: skip

    def said(self, facts: list[Fact]) -> list[Said]:
        """Several lesions or studies in few sentences; one lesion on two studies is told by the facts themselves."""
        if len(self.course.tracks) == 1 and len(self.handles) == 2:
            return []
        last = len(self.handles) - 1
        at = {f.title: n for n, f in enumerate(facts)}
        found = [Said(text=facts[n].statement, facts=[n]) for title, n in at.items() if title.startswith("Course of the longest")]
        newest = self.pair(last - 1, last)
        found += [
            Said(text=f.statement, facts=[n])
            for n, f in enumerate(facts)
            if f.code == LESION_EVENT and (last > 1 or f.title.endswith(newest))
        ]
        found += [self._both(facts, mine) for mine in self._by_lesion(facts, newest)]
        found += [Said(text=f.statement, facts=[n]) for n, f in enumerate(facts) if f.code == DOUBLING_TIME and newest in f.title]
        spans = [n for n, f in enumerate(facts) if f.code in (INTERVAL, ALIGNMENT) and newest in f.title]
        found += [Said(text=facts[n].statement, facts=[n]) for n in spans]
        return found

    def _by_lesion(self, facts: list[Fact], pair: str) -> list[list[int]]:
        """Places of the changes between two studies, together for each lesion, the diameter (or a node's short axis) first."""
        rows: dict[str, list[int]] = {}
        for number, fact in enumerate(facts):
            if fact.code in (CHANGE["diameter"], CHANGE["short"], CHANGE["volume"]) and pair in fact.title:
                rows.setdefault(fact.title.split(pair)[1], []).append(number)
        return [
            sorted(mine, key=lambda n: ("short", "diameter", "volume").index(facts[n].title.split()[2]))
            for mine in list(rows.values())[:TOLD]
        ]

    @staticmethod
    def _both(facts: list[Fact], places: list[int]) -> Said:
        """One lesion's changes in a sentence: the first as its fact says it, of the others the sizes."""
        first = facts[places[0]]
        rest = [
            m.group(1)
            for n in places[1:]
            if (m := re.search(r"the ((?:volume|longest axial diameter) of .*?), which is", facts[n].statement))
        ]
        more = "".join(f" The {words}." for words in rest)
        return Said(text=first.statement + more, facts=places)
