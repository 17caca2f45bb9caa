"""A worksheet's time points: sums of the targets, then the category by the guideline engine's own rule. Nothing is classified here."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal

from knowledge.errors import KnowledgeError
from knowledge.guidelines.rulebook import RuleBook
from knowledge.guidelines.rules import Rule
from knowledge.guidelines.rules.base import percent
from knowledge.guidelines.rules.recist_1_1 import PROGRESSION_MM, PROGRESSION_PERCENT
from knowledge.response.model import Criteria, Lesion, Role, Size, State, TimePoint, Worksheet, rank
from knowledge.response.targets import (
    LUGANO_EXTRANODAL_MM,
    LUGANO_NODE_MM,
    NODE_DISEASE_MM,
    RANO_MM,
    TOO_SMALL_MM,
    chosen,
    departures,
)


class InvalidChange(KnowledgeError):
    """A change of a worksheet that names what isn't there."""


CONFIRM_DAYS = 28
"""Complete and partial response are confirmed after four weeks or more (RECIST 1.1, Eisenhauer 2009; RANO 2.0, Wen 2023)."""
RESPONSES = ("CR", "PR", "MR", "iCR", "iPR")
_CONVENTIONS = {
    State.MERGED: "{name} has grown together with another lesion on {study}: their common diameter counts once",
    "split": "{name} lies in {parts} parts on {study}: their diameters are added",
    "small": "{name} is there but below 5 mm on {study}: it counts 5 mm",
}


def scored(sheet: Worksheet, rules: RuleBook) -> Worksheet:
    """The worksheet with its time points, notes and categories as its roles and answers have them. Pure: the same gives the same."""
    rule = rules.rule(sheet.criteria)
    targets = [x for x in sheet.lesions if x.role is Role.TARGET]
    notes = [*departures(sheet.criteria, sheet.lesions, sheet.baseline)]
    start = next(n for n, s in enumerate(sheet.studies) if s.handle == sheet.baseline)
    points: list[TimePoint] = []
    sums: list[float | None] = []
    for number, study in enumerate(sheet.studies):
        total = _total(sheet.unit, targets, study.handle)
        notes += _noted(sheet.unit, targets, study.handle)
        if number < start:
            points.append(TimePoint(study=study.handle, date=study.date, total=total, text="Before baseline."))
            continue
        sums.append(total)
        told = [s for s in sums[:-1] if s is not None]
        if number == start:
            points.append(
                TimePoint(study=study.handle, date=study.date, total=total, baseline=total, nadir=total, text="Baseline.")
            )
            continue
        base, nadir = sums[0], min(told) if told else None
        facts = {**_facts(sheet, targets, study.handle, points, sums, base, nadir), **sheet.answers.get(study.handle, {})}
        points.append(
            _point(rule, facts, TimePoint(study=study.handle, date=study.date, total=total, baseline=base, nadir=nadir))
        )
    return sheet.model_copy(
        update={"points": [_confirmed(points, n) for n in range(len(points))], "notes": list(dict.fromkeys(notes))}
    )


def _confirmed(points: Sequence[TimePoint], number: int) -> TimePoint:
    """A response with the first later study, at least four weeks after, that shows it again; one that is lost before that isn't confirmed."""
    one = points[number]
    if one.category not in RESPONSES:
        return one
    for later in points[number + 1 :]:
        if later.category is None or rank(later.category) > rank(one.category):
            return one
        if (date.fromisoformat(later.date) - date.fromisoformat(one.date)).days >= CONFIRM_DAYS:
            return one.model_copy(update={"confirmed_by": later.study})
    return one


def changed(sheet: Worksheet, rules: RuleBook, roles: Mapping[str, Role] | None = None, baseline: str | None = None, criteria: Criteria | None = None,
            measure: Literal["diameters", "volume"] | None = None, answers: Mapping[str, Mapping[str, Any]] | None = None) -> Worksheet:  # fmt: skip
    """The worksheet as a reader leaves it, computed again. Other criteria, or another baseline, choose targets anew; `roles` go over that.

    Raises InvalidChange for a lesion, study or fact that isn't there, and InvalidFacts for a value that a fact can't have.
    """
    known = {s.handle for s in sheet.studies}
    made = sheet
    if baseline is not None and baseline not in known:
        raise InvalidChange(f"the worksheet has no study {baseline!r}", f"its studies are {sorted(known)}")
    if criteria is not None or baseline is not None:
        made = made.model_copy(update={"criteria": criteria or sheet.criteria, "baseline": baseline or sheet.baseline})
        made = made.model_copy(update={"lesions": chosen(made.criteria, made.lesions, made.baseline)})
        if criteria is not None and criteria is not sheet.criteria:
            made = made.model_copy(update={"answers": {}, "measure": "diameters"})
    if measure is not None:
        if measure == "volume" and made.criteria is not Criteria.RANO:
            raise InvalidChange("only RANO sums up volumes", "choose diameters")
        made = made.model_copy(update={"measure": measure})
    names = {x.name for x in made.lesions}
    for name in roles or {}:
        if name not in names:
            raise InvalidChange(f"the worksheet has no lesion {name!r}", f"its lesions are {sorted(names)}")
    lesions = [x if (role := (roles or {}).get(x.name)) in (None, x.role) else x.model_copy(update={"role": role, "why": "chosen by a reader", "by": "reader"})
               for x in made.lesions]  # fmt: skip
    told = {k: dict(v) for k, v in made.answers.items()}
    facts = rules.rule(made.criteria).spec["facts"]
    for study, given in (answers or {}).items():
        if study not in known:
            raise InvalidChange(f"the worksheet has no study {study!r}", f"its studies are {sorted(known)}")
        for name, value in given.items():
            if name not in facts:
                raise InvalidChange(f"{made.criteria} knows no fact {name!r}", f"its facts are {sorted(facts)}")
            if value is None:
                told.get(study, {}).pop(name, None)
            else:
                told.setdefault(study, {})[name] = value
    return scored(made.model_copy(update={"lesions": lesions, "answers": told}), rules)


def _point(rule: Rule, facts: dict[str, Any], plain: TimePoint) -> TimePoint:
    known = {n: v for n, v in facts.items() if n in rule.spec["facts"] and v is not None}
    outcome = rule.apply(known)
    return plain.model_copy(update={
        "category": outcome.category, "text": outcome.recommendation or outcome.refusal, "values": outcome.values, "inputs": known,
        "missing": outcome.missing, "would_change": outcome.would_change,
    })  # fmt: skip


def counted(unit: str, lesion: Lesion, size: Size) -> float | None:
    """What a target adds to the sum on a study; None where it wasn't seen there."""
    if size.state in (State.GONE, State.MERGED):
        return 0.0
    if size.state is not State.MEASURED or size.long_mm is None or size.short_mm is None:
        return None
    if unit != "mm":
        return size.product_mm2 if unit == "mm2" else size.volume_ml
    if lesion.node:
        return size.short_mm
    return max(size.long_mm, TOO_SMALL_MM)


def _total(unit: str, targets: Sequence[Lesion], study: str) -> float | None:
    values = [counted(unit, x, x.at(study)) for x in targets]
    told = [v for v in values if v is not None]
    return round(sum(told), 1) if targets and len(told) == len(values) else None


def _noted(unit: str, targets: Sequence[Lesion], study: str) -> list[str]:
    found = []
    for one in targets:
        size = one.at(study)
        if size.state is State.MERGED:
            found.append(_CONVENTIONS[State.MERGED].format(name=one.name, study=study))
        elif size.parts > 1:
            found.append(_CONVENTIONS["split"].format(name=one.name, study=study, parts=size.parts))
        elif unit == "mm" and not one.node and size.state is State.MEASURED and (size.long_mm or 0.0) < TOO_SMALL_MM:
            found.append(_CONVENTIONS["small"].format(name=one.name, study=study))
    return found


def _facts(sheet: Worksheet, targets: list[Lesion], study: str, points: list[TimePoint], sums: list[float | None], base: float | None,
           nadir: float | None) -> dict[str, Any]:  # fmt: skip
    """The rule's facts as the masks give them; what they don't show isn't there."""
    now = sums[-1]
    others = _non_targets(sheet.lesions, study)
    new = _new(sheet, study)
    before = points[-1].category if points else None
    if sheet.criteria is Criteria.RANO:
        early = points[-1] if points else None
        again = early is not None and early.category == "preliminary PD" and _days(early.date, sheet, study) >= CONFIRM_DAYS and now is not None \
            and early.total is not None and now >= early.total  # fmt: skip
        name, unit = ("volume", "ml") if sheet.measure == "volume" else ("sum_products", "mm2")
        return ({"confirmed": True} if again else {}) | {f"{name}_baseline_{unit}": base, f"{name}_nadir_{unit}": nadir, f"{name}_current_{unit}": now,
                "new_measurable_lesion": any(min(s.long_mm or 0, s.short_mm or 0) >= RANO_MM for s in new)}  # fmt: skip
    if sheet.criteria is Criteria.LUGANO:
        return _lugano(sheet, targets, study, base, now, new)
    if sheet.criteria is Criteria.MRECIST:
        return {"viable_sum_baseline_mm": base, "viable_sum_nadir_mm": nadir, "viable_sum_current_mm": now, "non_target_response": others,
                "new_lesion": bool(new)}  # fmt: skip
    nodes = [x.at(study).short_mm or 0.0 for x in targets if x.node]
    whole = [x.at(study) for x in targets if not x.node]
    recist = {"target_disease": bool(targets), "baseline_sum_mm": base, "nadir_sum_mm": nadir, "current_sum_mm": now,
              "all_targets_assessed": now is not None, "non_nodal_targets_resolved": all(s.state is State.GONE for s in whole),
              "target_node_short_axes_mm": nodes, "non_target_response": others, "new_lesion": bool(new)}  # fmt: skip
    if sheet.criteria is Criteria.RECIST:
        return recist | ({"previous_response": before} if before else {})
    return _irecist(sheet, recist, points, sums, study)


def _days(earlier: str, sheet: Worksheet, study: str) -> int:
    later = next(s.date for s in sheet.studies if s.handle == study)
    return (date.fromisoformat(later) - date.fromisoformat(earlier)).days


def _irecist(
    sheet: Worksheet, recist: dict[str, Any], points: list[TimePoint], sums: list[float | None], study: str
) -> dict[str, Any]:
    last = points[-1] if points and points[-1].category else None
    facts = {"previous_response": last.category if last else "none", "target_sums_mm": [s for s in sums if s is not None],
             "non_target_response": recist["non_target_response"], "new_lesion": bool(_appeared(sheet, study))}  # fmt: skip
    if recist["non_nodal_targets_resolved"] and all(n < NODE_DISEASE_MM for n in recist["target_node_short_axes_mm"]):
        facts["target_response"] = "CR"
    if last is not None and last.category == "iUPD":
        causes = [c for c, there in (("target", _grew(sums[:-1])), ("new_lesion", bool(_new(sheet, last.study))),
                                     ("non_target", last.inputs.get("non_target_response") == "pd")) if there]  # fmt: skip
        facts |= {
            "iupd_causes": causes,
            "target_sum_increases_mm": _steps(sums),
            "new_lesion_sum_increases_mm": _new_steps(sheet, points, study),
        }
    return facts


def _grew(sums: list[float | None]) -> bool:
    """The last of the sums meets RECIST's growth over the smallest before it (the rule decides; this names the cause)."""
    told = [s for s in sums if s is not None]
    nadir = min(told[:-1], default=0.0)
    return nadir > 0 and percent(told[-1], nadir) >= PROGRESSION_PERCENT and told[-1] - nadir >= PROGRESSION_MM


def _steps(sums: list[float | None]) -> list[float]:
    """Change of the sum at this time point, which follows the progression's."""
    return [round(sums[-1] - sums[-2], 1)] if len(sums) > 1 and sums[-1] is not None and sums[-2] is not None else []


def _new_steps(sheet: Worksheet, points: list[TimePoint], study: str) -> list[float]:
    before = points[-1].study
    change = 0.0
    for one in sheet.lesions:
        if one.role is Role.NEW and one.at(before).state is State.MEASURED and one.at(study).state is State.MEASURED:
            key = "short_mm" if one.node else "long_mm"
            change += (getattr(one.at(study), key) or 0.0) - (getattr(one.at(before), key) or 0.0)
    return [round(change, 1)]


def _lugano(
    sheet: Worksheet, targets: list[Lesion], study: str, base: float | None, now: float | None, new: list[Size]
) -> dict[str, Any]:
    facts: dict[str, Any] = {"new_lesion": any((s.long_mm or 0) > LUGANO_EXTRANODAL_MM for s in new)}
    if base and now is not None:
        facts["spd_change_percent"] = round(100 * (now - base) / base, 1)
    targeted = [x for x in targets if x.node]
    nodes = [
        x for x in sheet.lesions if x.node and not (x.role is Role.IGNORED and x.by == "reader")
    ]  # one that was normal may have grown
    seen = [x.at(study) for x in targeted]
    facts["all_nodes_ldi_15mm_or_less"] = bool(targeted) and all(
        (s.long_mm or 0.0) <= LUGANO_NODE_MM and s.state is not State.NOT_COVERED for s in seen
    )
    if any(x.organ != "lymph node" for x in sheet.lesions if x.role in (Role.TARGET, Role.NON_TARGET)):
        facts["extranodal_disease"] = any(
            x.at(study).state is State.MEASURED for x in sheet.lesions if not x.node and x.role is not Role.IGNORED
        )
    worst: tuple[float, dict[str, Any]] | None = None
    earlier = [s.handle for s in sheet.studies][: [s.handle for s in sheet.studies].index(study)]
    for one in nodes:
        size = one.at(study)
        past = [s for h in earlier if (s := one.at(h)).product_mm2 and s.state is State.MEASURED]
        if not past or not size.product_mm2:
            continue
        least = min(past, key=lambda s: s.product_mm2 or 0.0)
        grown = 100 * (size.product_mm2 - (least.product_mm2 or 0.0)) / (least.product_mm2 or 1.0)
        if grown > 0 and (worst is None or grown > worst[0]):
            worst = (grown, {"node_ldi_mm": size.long_mm, "node_ppd_increase_percent": round(grown, 1),
                             "node_ldi_increase_mm": round((size.long_mm or 0) - (least.long_mm or 0), 1),
                             "node_sdi_increase_mm": round((size.short_mm or 0) - (least.short_mm or 0), 1)})  # fmt: skip
    return facts | (worst[1] if worst else {})


def _non_targets(lesions: Sequence[Lesion], study: str) -> str:
    """What masks can say of the non-targets. Unequivocal progression is a reader's call and never said here."""
    rows = [(x, x.at(study)) for x in lesions if x.role is Role.NON_TARGET]
    if not rows:
        return "none"
    if any(s.state is State.NOT_COVERED for _, s in rows):
        return "not_all_evaluated"
    gone = all(s.state is State.GONE or (x.node and s.short_mm is not None and s.short_mm < NODE_DISEASE_MM) for x, s in rows)
    return "cr" if gone else "non_cr_non_pd"


def _new(sheet: Worksheet, study: str) -> list[Size]:
    """New lesions that are there on a study."""
    return [s for x in sheet.lesions if x.role is Role.NEW and (s := x.at(study)).state is State.MEASURED]


def _appeared(sheet: Worksheet, study: str) -> list[Size]:
    """New lesions that are there for the first time on a study."""
    order = [s.handle for s in sheet.studies]
    earlier = order[: order.index(study)]
    return [x.at(study) for x in sheet.lesions if x.role is Role.NEW and x.at(study).state is State.MEASURED
            and all(x.at(h).state is not State.MEASURED for h in earlier)]  # fmt: skip
