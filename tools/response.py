"""Response by RECIST 1.1, iRECIST, RANO 2.0, mRECIST and Lugano, from lesions as they are outlined on dated studies.

`apply_guideline` calls this for its response rules where sums aren't given: lesions are followed (tools/course), targets chosen by the
criteria (knowledge/response/targets.py), and each time point is computed by the rule of the guideline engine. What comes out is a worksheet
that a reader can edit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from knowledge.evidence import Course as Curve
from knowledge.evidence import CourseLine, CoursePoint, Fact, ImageRef, Kind, Origin, RuleRef
from knowledge.guidelines.rules import Rule
from knowledge.reporting.drafts import now
from knowledge.response.model import Criteria, Lesion, Role, State, TimePoint, Worksheet
from knowledge.response.scoring import RESPONSES, counted, scored
from knowledge.response.store import new_id
from knowledge.response.targets import chosen
from tools.base import Bench, Made, Missing, Reply
from tools.compare import comparable
from tools.concepts import LESION_EVENT, TARGET_SUM
from tools.course.following import Course, follow
from tools.errors import NotApplicable

SUMS = {
    "recist_1_1": {"baseline_sum_mm", "nadir_sum_mm", "current_sum_mm", "target_disease", "non_nodal_targets_resolved"},
    "irecist": {"target_sums_mm", "target_response", "iupd_causes", "previous_response"},
    "rano_2_0": {"sum_products_baseline_mm2", "sum_products_nadir_mm2", "sum_products_current_mm2", "volume_baseline_ml", "volume_nadir_ml", "volume_current_ml"},
    "mrecist": {"viable_sum_baseline_mm", "viable_sum_nadir_mm", "viable_sum_current_mm"},
    "lugano_2014_ct": {"spd_change_percent", "node_ldi_mm", "node_ppd_increase_percent", "all_nodes_ldi_15mm_or_less"},
}  # fmt: skip
"""Facts that the outlines give. Where a question states one of them, nothing is measured for it."""
TOOL = ("apply_guideline", "2")


@dataclass(frozen=True)
class Known:
    """A fact of the newest time point that images don't show, and where it comes from."""

    value: Any
    origin: Origin


def assess(bench: Bench, rule: Rule, known: Mapping[str, Known]) -> Reply:
    """The response at every time point. Raises NotApplicable where lesions can't be followed or none is measurable at baseline."""
    criteria = Criteria(rule.name)
    course = follow(bench, comparable(bench.required_case, []))
    sheet = begun(course, criteria, {n: k.value for n, k in known.items()})
    if not any(x.role in (Role.TARGET, Role.NON_TARGET) for x in sheet.lesions):
        raise NotApplicable(f"no lesion of {sheet.baseline} is measurable disease by {rule.spec['title']}: "
                            f"{'; '.join(f'{x.name} {x.why}' for x in sheet.lesions[:5])}", "choose another baseline, or outline what is measurable")  # fmt: skip
    sheet = bench.resources.responses.add(scored(sheet, bench.resources.rules))
    return _told(course, sheet, rule, known)


def begun(course: Course, criteria: Criteria, answers: Mapping[str, Any]) -> Worksheet:
    """A worksheet with the targets that the criteria choose; `answers` are of the newest study."""
    studies = course.dated()
    baseline = studies[0].handle
    newest = studies[-1].handle
    return Worksheet(id=new_id(), patient_id=course.bench.required_case.patient.id, criteria=criteria, created=now(), studies=studies, baseline=baseline,
                     lesions=chosen(criteria, course.rows(), baseline), answers={newest: dict(answers)} if answers else {})  # fmt: skip


def _told(course: Course, sheet: Worksheet, rule: Rule, known: Mapping[str, Known]) -> Reply:
    sums = [_sum(course, sheet, p) for p in sheet.points]
    categories = [
        _category(sheet, rule, p, sums, known, last=p is sheet.points[-1])
        for p in sheet.points
        if p.study != sheet.baseline and p.nadir is not None
    ]
    facts = [*reversed(categories), _course(course, sheet, sums), *_targets(course, sheet)]
    newest = sheet.points[-1]
    title = rule.spec["title"]
    missing = [Missing(what=n.replace("_", " "), why=rule.spec["facts"][n]["meaning"], would_change=newest.would_change.get(n) or f"the result of: {title}")
               for n in newest.missing]  # fmt: skip
    missing += [
        Missing(what="a reader's look at the worksheet", why=n, would_change="the sums, and with them the category")
        for n in sheet.notes
    ]
    missing += course.missing
    text = "\n".join(f.statement for f in facts)
    return Reply(
        text=text,
        facts=facts,
        missing=missing,
        made=Made(kind="worksheet", id=sheet.id, title=f"{title}: {newest.category or 'open'}"),
    )


def _unit(sheet: Worksheet) -> str:
    return {"mm2": "mm²"}.get(sheet.unit, sheet.unit)


def _sum(course: Course, sheet: Worksheet, point: TimePoint) -> Fact | None:
    """The sum of the targets on one study; None where not all of them were seen."""
    targets = [x for x in sheet.lesions if x.role is Role.TARGET]
    if point.total is None or not targets:
        return None
    k = [s.handle for s in sheet.studies].index(point.study)
    parts = ", ".join(_part(sheet.unit, x, point.study, _unit(sheet)) for x in targets)
    statement = f"The sum of the {len(targets)} target{'s' if len(targets) > 1 else ''} on {point.study} ({point.date}) is {point.total:g} {_unit(sheet)}: {parts}."
    low, high = _spread(sheet, targets, point)
    source, beside = _pictures(course, targets, k)
    return Fact(kind=Kind.MEASUREMENT, title=f"Sum of the targets on {point.study}", statement=statement, value=point.total, unit=sheet.unit,
                interval=[low, high], code=TARGET_SUM, source=source, beside=beside)  # fmt: skip


def _part(plain: str, lesion: Lesion, study: str, unit: str) -> str:
    value, size = counted(plain, lesion, lesion.at(study)), lesion.at(study)
    axis = " short axis" if lesion.node and unit == "mm" else ""
    state = "" if size.state is State.MEASURED else f" ({size.state})"
    return f"{lesion.name} ({lesion.organ}){axis} {value:g} {unit}{state}"


def _spread(sheet: Worksheet, targets: list[Lesion], point: TimePoint) -> tuple[float, float]:
    """What the outlines' doubt allows the sum to be; each diameter's own, added."""
    low = high = 0.0
    for one in targets:
        size, value = one.at(point.study), counted(sheet.unit, one, one.at(point.study)) or 0.0
        if size.interval_mm and size.long_mm:
            ratio = value / size.long_mm
            low, high = low + size.interval_mm[0] * ratio, high + size.interval_mm[1] * ratio
        else:
            low, high = low + value, high + value
    return round(min(low, point.total or 0.0), 1), round(max(high, point.total or 0.0), 1)


def _pictures(course: Course, lesions: list[Lesion], k: int) -> tuple[ImageRef, list[ImageRef]]:
    """The largest of the lesions that the study shows, and its place on the others."""
    tracks = [t for t in course.tracks if t.called in {x.name for x in lesions}]
    there = [t for t in tracks if t.parts[k]] or tracks
    largest = max(there, key=lambda t: t.total(k, "volume") if t.parts[k] else 0.0)
    others = [n for n in range(len(course.founds)) if n != k]
    return course.ref(largest, k, TOOL), course.beside(largest, others, TOOL)


def _category(
    sheet: Worksheet, rule: Rule, point: TimePoint, sums: list[Fact | None], known: Mapping[str, Known], last: bool
) -> Fact:
    title = rule.spec["title"]
    version = "" if rule.spec["version"] in title else f", {rule.spec['version']}"
    shown = ", ".join(
        f"{n.rsplit('_', 1)[0].replace('_', ' ')} {v:g} {rule.spec['values'][n]['unit']}" for n, v in point.values.items()
    )
    sizes = "" if point.total is None else (f"sum of targets {point.total:g} {_unit(sheet)}, baseline {point.baseline:g}, smallest before {point.nadir:g}"
                                            if point.baseline is not None and point.nadir is not None else f"sum of targets {point.total:g} {_unit(sheet)}")  # fmt: skip
    head = point.category or (
        f"no category yet; missing: {', '.join(m.replace('_', ' ') for m in point.missing)}" if point.missing else "no category"
    )
    inner = "; ".join(w for w in (sizes, shown) if w)
    best = _best(sheet) if last and len(sheet.points) > 2 else ""
    statement = f"By {title}{version}, {point.study} ({point.date}) against baseline {sheet.baseline}: {head}{f' ({inner})' if inner else ''}. {point.text}{best}".strip()
    if not rule.checked:
        statement += " (This rule's facts await a check against the source.)"
    measured = next((s for s in sums if s is not None and s.title.endswith(f" {point.study}")), None)
    origins = {n: _origin(n, point, measured, known if last else {}) for n in point.inputs}
    source = RuleRef(rule=rule.name, document=f"{rule.document} ({rule.spec['version']})", section=rule.section, inputs=point.inputs, missing=point.missing,
                     origins=origins, would_change=point.would_change)  # fmt: skip
    value = {"category": point.category, "recommendation": point.text, "values": point.values, "checked": rule.checked, "study": point.study,
             "worksheet": sheet.id}  # fmt: skip
    return Fact(kind=Kind.RULE, title=f"{title} on {point.study}", statement=statement, value=value, source=source)


def _best(sheet: Worksheet) -> str:
    """Best response so far, and whether a later study confirms it."""
    if not sheet.best:
        return ""
    if sheet.best not in RESPONSES:
        return f" Best response so far: {sheet.best}."
    by = next((p.confirmed_by for p in sheet.points if p.category == sheet.best and p.confirmed_by), None)
    return f" Best response so far: {sheet.best} ({f'confirmed by {by}' if by else 'not confirmed by a later examination'})."


def _origin(name: str, point: TimePoint, measured: Fact | None, known: Mapping[str, Known]) -> Origin:
    if name in known and known[name].value == point.inputs[name]:
        return known[name].origin
    if measured is None:
        return Origin(kind="measurement", statement=f"From the outlined lesions of {point.study} and the studies before.")
    source = measured.source
    return Origin(kind="measurement", statement=measured.statement, source=source if isinstance(source, ImageRef) else None)


def _course(course: Course, sheet: Worksheet, sums: list[Fact | None]) -> Fact:
    """The sums over time with each target's line; the newest that is whole is the fact's value."""
    targets = [x for x in sheet.lesions if x.role is Role.TARGET]
    unit = _unit(sheet)
    lines = [CourseLine(name=f"{x.name} ({x.organ})", points=[CoursePoint(study=s.handle, date=s.date, value=counted(sheet.unit, x, x.at(s.handle)),
             note="" if x.at(s.handle).state is State.MEASURED else str(x.at(s.handle).state)) for s in sheet.studies]) for x in targets]  # fmt: skip
    whole = [CoursePoint(study=p.study, date=p.date, value=p.total, interval=f.interval if f else None, note=p.category or p.text.rstrip("."))
             for p, f in zip(sheet.points, sums, strict=True)]  # fmt: skip
    told = [p for p in sheet.points if p.total is not None]
    least = min(told, key=lambda p: p.total or 0.0) if told else None
    values = ", ".join(
        f"{p.total:g} {unit} on {p.study}{f' ({p.category})' if p.category else ' (baseline)' if p.study == sheet.baseline else ''}"
        for p in told
    )
    statement = (
        f"Course of the sum of targets: {values or 'no study shows all targets'}{f'; nadir on {least.study}' if least else ''}."
    )
    newest = told[-1] if told else sheet.points[-1]
    k = [s.handle for s in sheet.studies].index(newest.study)
    source, beside = _pictures(course, targets or sheet.lesions, k)
    kind = Kind.MEASUREMENT if newest.total is not None else Kind.FINDING
    return Fact(kind=kind, title="Course of the sum of targets", statement=statement, value=newest.total, unit=sheet.unit if newest.total is not None else None,
                code=TARGET_SUM, source=source, beside=beside,
                course=Curve(quantity="sum of targets", unit=unit, lines=[CourseLine(name="sum", points=whole), *lines], baseline=sheet.baseline,
                             nadir=least.study if least else None))  # fmt: skip


def _targets(course: Course, sheet: Worksheet) -> list[Fact]:
    """What counts as what, and why."""
    found = []
    k = [s.handle for s in sheet.studies].index(sheet.baseline)
    for role, words in ((Role.TARGET, "Targets"), (Role.NON_TARGET, "Non-targets"), (Role.NEW, "New since baseline")):
        mine = [x for x in sheet.lesions if x.role is role]
        if not mine:
            continue
        names = ", ".join(f"{x.name} ({x.organ}{'' if role is Role.TARGET else f'; {x.why}'})" for x in mine)
        seen = (
            k
            if role is not Role.NEW
            else next(n for n, s in enumerate(sheet.studies) if mine[0].at(s.handle).state is State.MEASURED)
        )
        source, beside = _pictures(course, mine, seen)
        found.append(Fact(kind=Kind.FINDING, title=words, statement=f"{words}: {names}.", value={"role": role, "lesions": [x.name for x in mine]},
                          code=LESION_EVENT, source=source, beside=beside))  # fmt: skip
    return found
