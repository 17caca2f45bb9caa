"""Searching (FHIR R4 3.1.1): parameters by type, prefixes, modifiers, chains, `_include`, sorting and pages."""

import calendar
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from serving.api.fhir.shelf import MADE, TAKEN, Shelf
from serving.errors import Problem

Resource = dict[str, Any]
COUNT, MOST = 50, 500
"""Matches of a page: where `_count` says nothing, and at most."""
DEEPEST = 3
"""Links of a chain."""
_PREFIX = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb|ap)?(.*)", re.S)


@dataclass(frozen=True)
class Parameter:
    """One search parameter: its type, the paths that it looks at, and for a reference the types that it points to."""

    kind: str
    paths: tuple[str, ...]
    targets: tuple[str, ...] = ()


def _token(*paths: str) -> Parameter:
    return Parameter("token", paths)


def _date(*paths: str) -> Parameter:
    return Parameter("date", paths)


def _to(targets: str, *paths: str) -> Parameter:
    return Parameter("reference", paths, tuple(targets.split()))


_PATIENT = _to("Patient", "subject", "patient")
_EVERY = {"_id": _token("id"), "_lastUpdated": _date("meta.lastUpdated"), "_tag": _token("meta.tag"), "_profile": Parameter("uri", ("meta.profile",))}  # fmt: skip
_OFTEN = {"patient": _PATIENT, "subject": _PATIENT, "identifier": _token("identifier"), "status": _token("status"), "code": _token("code"),
          "category": _token("category"), "encounter": _to("Encounter", "encounter")}  # fmt: skip
PARAMETERS: dict[str, dict[str, Parameter]] = {
    "Patient": {"identifier": _token("identifier"), "birthdate": _date("birthDate"), "gender": _token("gender")},
    "ImagingStudy": {"patient": _PATIENT, "subject": _PATIENT, "identifier": _token("identifier"), "status": _token("status"),
                     "started": _date("started"), "modality": _token("modality", "series.modality"), "bodysite": _token("series.bodySite"),
                     "series": _token("series.uid"), "instance": _token("series.instance.uid"), "dicom-class": _token("series.instance.sopClass"),
                     "endpoint": _to("Endpoint", "endpoint"), "basedon": _to("ServiceRequest", "basedOn")},
    "DiagnosticReport": {**_OFTEN, "date": _date("effectiveDateTime", "effectivePeriod"), "issued": _date("issued"),
                         "result": _to("Observation", "result"), "conclusion": _token("conclusionCode"), "based-on": _to("ServiceRequest", "basedOn"),
                         "imaging-study": _to("ImagingStudy", "imagingStudy")},
    "Observation": {**_OFTEN, "date": _date("effectiveDateTime", "effectivePeriod", "issued"), "value-quantity": Parameter("quantity", ("valueQuantity",)),
                    "value-concept": _token("valueCodeableConcept"), "value-string": Parameter("string", ("valueString",)),
                    "derived-from": _to("ImagingStudy DocumentReference Observation", "derivedFrom"), "has-member": _to("Observation", "hasMember"),
                    "component-code": _token("component.code"), "combo-code": _token("code", "component.code"),
                    "component-value-quantity": Parameter("quantity", ("component.valueQuantity",)), "device": _to("Device", "device"),
                    "focus": _to("BodyStructure", "focus"), "method": _token("method")},
    "DocumentReference": {**{k: v for k, v in _OFTEN.items() if k != "code"}, "type": _token("type"), "date": _date("date"),
                          "description": Parameter("string", ("description",)), "contenttype": _token("content.attachment.contentType")},
    "Provenance": {"target": _to("DiagnosticReport Observation", "target"), "recorded": _date("recorded"), "agent": _to("Device", "agent.who"),
                   "entity": _to("ImagingStudy", "entity.what"), "patient": _to("Patient", "target")},
    "AuditEvent": {"date": _date("recorded"), "action": _token("action"), "type": _token("type"), "subtype": _token("subtype"),
                   "agent-name": Parameter("string", ("agent.who.display",)), "entity": _to("ImagingStudy", "entity.what"),
                   "outcome": _token("outcome")},
    "Device": {"status": _token("status"), "device-name": Parameter("string", ("deviceName.name",))},
    "Endpoint": {"status": _token("status"), "connection-type": _token("connectionType")},
}  # fmt: skip
_DATED = {"Condition": ("onset-date", "onsetDateTime", "recordedDate"), "Procedure": ("date", "performedDateTime", "performedPeriod"),
          "MedicationRequest": ("authoredon", "authoredOn"), "MedicationStatement": ("effective", "effectiveDateTime", "effectivePeriod"),
          "MedicationAdministration": ("effective-time", "effectiveDateTime", "effectivePeriod"), "ServiceRequest": ("authored", "authoredOn"),
          "Encounter": ("date", "period"), "FamilyMemberHistory": ("date", "date"), "AllergyIntolerance": ("date", "recordedDate"),
          "Immunization": ("date", "occurrenceDateTime"), "CarePlan": ("date", "period"), "Specimen": ("collected", "collection.collectedDateTime")}  # fmt: skip
for _kind in TAKEN:
    PARAMETERS[_kind] = {**_OFTEN, "clinical-status": _token("clinicalStatus"), "intent": _token("intent")}
    if _kind in _DATED:
        _name, *_paths = _DATED[_kind]
        PARAMETERS[_kind][_name] = _date(*_paths)
KINDS = (*MADE, *TAKEN)
_CONTROL = ("_count", "_offset", "_sort", "_include", "_revinclude", "_summary", "_total", "_format", "_pretty", "_elements")


@dataclass(frozen=True)
class Asked:
    """A search as it was understood."""

    kind: str
    filters: list[tuple[str, str]] = field(default_factory=list)
    sort: list[str] = field(default_factory=list)
    include: list[str] = field(default_factory=list)
    back: list[str] = field(default_factory=list)
    count: int = COUNT
    offset: int = 0
    only_count: bool = False
    unknown: list[str] = field(default_factory=list)


def understood(kind: str, given: Iterable[tuple[str, str]], strict: bool) -> Asked:
    """Read a query. Raises 400 for values that can't be meant, and in strict handling for parameters that aren't known."""
    filters: list[tuple[str, str]] = []
    unknown: list[str] = []
    told: dict[str, list[str]] = {}
    for name, value in given:
        plain = name.split(":")[0]
        if plain in _CONTROL:
            told.setdefault(plain, []).append(value)
        elif _known(kind, name):
            if value:
                _check(kind, name, value)
                filters.append((name, value))
        else:
            unknown.append(name)
    if unknown and strict:
        raise Problem(400, "UnknownParameter", f"{kind} can't be searched by {', '.join(unknown)}", "see /fhir/metadata, or leave out Prefer: handling=strict")  # fmt: skip
    sort = [s for one in told.get("_sort", []) for s in one.split(",") if s]
    for one in sort:
        if not _known(kind, one.lstrip("-")):
            raise Problem(400, "UnknownParameter", f"{kind} can't be sorted by {one}", "see /fhir/metadata")
    count = _whole(told.get("_count", [str(COUNT)])[-1], "_count")
    return Asked(kind, filters, sort, told.get("_include", []), told.get("_revinclude", []), min(count, MOST),
                 _whole(told.get("_offset", ["0"])[-1], "_offset"), count == 0 or told.get("_summary", [""])[-1] == "count", unknown)  # fmt: skip


def _check(kind: str, name: str, value: str) -> None:
    """Raises 400 for a date or quantity that can't be read, be there something to compare it with or not."""
    head, dot, rest = name.partition(".")
    plain, _, modifier = head.partition(":")
    parameter = _parameter(kind, plain)
    if dot and parameter is not None:
        for target in [modifier] if modifier in parameter.targets else parameter.targets:
            if _known(target, rest):
                _check(target, rest, value)
    elif parameter is not None and modifier == "" and parameter.kind in ("date", "quantity"):
        for one in _parts(value):
            _FITS[parameter.kind]("2000" if parameter.kind == "date" else {"value": 0}, one, "")


def _whole(text: str, name: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise Problem(400, "BadParameter", f"{name} is no whole number", "give a number of 0 or more")
    return int(text)


def _parameter(kind: str, name: str) -> Parameter | None:
    return PARAMETERS.get(kind, {}).get(name) or _EVERY.get(name)


def _known(kind: str, name: str) -> bool:
    head, dot, rest = name.partition(".")
    plain, _, modifier = head.partition(":")
    found = _parameter(kind, plain)
    if found is None:
        return False
    if not dot:
        return modifier in ("", "missing", "not", "text", "exact", "contains", "identifier", *found.targets)
    targets = (modifier,) if modifier in found.targets else found.targets
    return found.kind == "reference" and name.count(".") <= DEEPEST and any(_known(t, rest) for t in targets)


# Matching


def values(resource: Any, path: str) -> list[Any]:
    """What stands at a dotted path, lists opened."""
    found = [resource]
    for step in path.split("."):
        found = [v for one in found if isinstance(one, dict) and (v := one.get(step)) is not None]
        found = [x for v in found for x in (v if isinstance(v, list) else [v])]
    return found


def matches(shelf: Shelf, resource: Resource, name: str, wanted: str) -> bool:
    """Whether a resource fits one parameter; commas mean or. Raises 400 for a value that can't be meant."""
    head, dot, rest = name.partition(".")
    plain, _, modifier = head.partition(":")
    parameter = _parameter(str(resource["resourceType"]), plain)
    if parameter is None:
        return False
    found = [v for p in parameter.paths for v in values(resource, p)]
    if dot:
        return any(matches(shelf, r, rest, wanted) for v in found if (r := _followed(shelf, v, modifier)) is not None)
    if modifier == "missing":
        if wanted not in ("true", "false"):
            raise Problem(400, "BadParameter", f"{name} is true or false", "")
        return (not found) == (wanted == "true")
    fits: Callable[[Any, str, str], bool] = _FITS[parameter.kind]
    any_fits = any(fits(v, one, modifier) for one in _parts(wanted) for v in found)
    return not any_fits if modifier == "not" else any_fits


def _parts(wanted: str) -> list[str]:
    return [p.replace("\\,", ",").replace("\\|", "\ue000") for p in re.split(r"(?<!\\),", wanted) if p]


def _followed(shelf: Shelf, value: Any, kind: str) -> Resource | None:
    reference = value.get("reference") if isinstance(value, dict) else None
    if not isinstance(reference, str):
        return None
    parted = reference.split("/")[-2:]
    if len(parted) != 2 or (kind and parted[0] != kind):
        return None
    return shelf.one(parted[0], parted[1]) if shelf.readable(parted[0]) else None


def _token_fits(value: Any, wanted: str, modifier: str) -> bool:
    if modifier == "text":
        words = [str(value.get("text") or ""), *(str(c.get("display") or "") for c in values(value, "coding"))] if isinstance(value, dict) else [str(value)]  # fmt: skip
        return any(wanted.casefold() in w.casefold() for w in words)
    system, bar, code = wanted.rpartition("|")
    code = code.replace("\ue000", "|")
    if not isinstance(value, dict):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return text == code and not system
    listed = value["coding"] if isinstance(value.get("coding"), list) else [value]
    for one in listed:
        if not isinstance(one, dict):
            continue
        own = str(one.get("code", one.get("value", "")))
        if bar and (one.get("system") or "") != system:
            continue
        if not code or own == code or own == f"urn:oid:{code}" or (not bar and own.lower() == code.lower()):
            return True
    return False


def _reference_fits(value: Any, wanted: str, modifier: str) -> bool:
    if not isinstance(value, dict):
        return False
    if modifier == "identifier":
        return _token_fits(value.get("identifier"), wanted, "")
    own = str(value.get("reference") or "")
    if modifier and modifier != "not":
        wanted = f"{modifier}/{wanted}"
    parted = wanted.split("/")
    return own == wanted or own.split("/")[-2:] == parted[-2:] or (len(parted) == 1 and own.split("/")[-1] == wanted)


def _string_fits(value: Any, wanted: str, modifier: str) -> bool:
    text = str(value)
    if modifier == "exact":
        return text == wanted
    folded, asked = text.casefold(), wanted.casefold()
    return asked in folded if modifier == "contains" else folded.startswith(asked)


def _uri_fits(value: Any, wanted: str, modifier: str) -> bool:
    return str(value) == wanted


def _date_fits(value: Any, wanted: str, modifier: str) -> bool:
    prefix, text = _PREFIX.fullmatch(wanted).groups()  # type: ignore[union-attr]
    low, high = span(text)
    start = value.get("start") if isinstance(value, dict) else value
    end = (value.get("end") if isinstance(value, dict) else value) or "9999"
    try:
        mine = span(str(start or "0001"))[0], span(str(end))[1]
    except Problem:
        return False
    return _compared(prefix or "eq", mine, (low, high), timedelta(days=1))


def _compared(prefix: str, mine: tuple[Any, Any], asked: tuple[Any, Any], near: Any) -> bool:
    """Whether [mine) fits [asked) by a prefix of 3.1.1.4.5."""
    fits: dict[str, bool] = {
        "eq": asked[0] <= mine[0] and mine[1] <= asked[1], "ne": not (asked[0] <= mine[0] and mine[1] <= asked[1]),
        "gt": mine[1] > asked[1], "lt": mine[0] < asked[0], "ge": mine[1] > asked[0], "le": mine[0] < asked[1],
        "sa": mine[0] >= asked[1], "eb": mine[1] <= asked[0], "ap": mine[0] - near < asked[1] and mine[1] + near > asked[0],
    }  # fmt: skip
    return fits[prefix]


def span(text: str) -> tuple[datetime, datetime]:
    """The time that a date of any precision covers, [from, to). Raises 400."""
    found = re.fullmatch(
        r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:\d\d)?)?)?)?",
        text.replace(" ", "+"),
    )
    try:
        if not found:
            raise ValueError
        year, month, day, hour, minute, second, part, zone = found.groups()
        if hour is None:
            low = datetime(int(year), int(month or 1), int(day or 1), tzinfo=UTC)
            days = (
                1 if day else calendar.monthrange(low.year, low.month)[1] if month else 366 if calendar.isleap(low.year) else 365
            )
            return low, _later(low, timedelta(days=days))
        offset = "+00:00" if zone in (None, "Z") else zone
        low = datetime.fromisoformat(f"{year}-{month}-{day}T{hour}:{minute}:{second or '00'}{offset}") + timedelta(microseconds=int((part or "0").ljust(6, "0")[:6]))  # fmt: skip
        wide = timedelta(minutes=1) if second is None else timedelta(seconds=1) if part is None else timedelta(milliseconds=1)
        return low, _later(low, wide)
    except (ValueError, OverflowError) as error:
        raise Problem(
            400, "BadParameter", "a date can't be read", "write it as 2026-11, 2026-11-28 or 2026-11-28T09:30:00Z"
        ) from error


def _later(moment: datetime, by: timedelta) -> datetime:
    try:
        return moment + by
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def _quantity_fits(value: Any, wanted: str, modifier: str) -> bool:
    prefix, text = _PREFIX.fullmatch(wanted).groups()  # type: ignore[union-attr]
    number, _, rest = text.partition("|")
    system, _, unit = rest.rpartition("|")
    if not re.fullmatch(r"[+-]?\d{1,12}(\.\d{1,12})?([eE][+-]?\d{1,2})?", number):
        raise Problem(400, "BadParameter", "a quantity can't be read", "write it as gt20|http://unitsofmeasure.org|mm")
    if not isinstance(value, dict) or not isinstance(value.get("value"), int | float):
        return False
    if (system and value.get("system") != system) or (unit and unit not in (value.get("code"), value.get("unit"))):
        return False
    asked, half = float(number), 0.5 * 10.0 ** -(len(number.partition(".")[2]))
    mine = float(value["value"])
    if prefix in (None, "eq"):
        return asked - half <= mine < asked + half
    if prefix == "ne":
        return not asked - half <= mine < asked + half
    return {"gt": mine > asked, "lt": mine < asked, "ge": mine >= asked, "le": mine <= asked, "sa": mine > asked, "eb": mine < asked,
            "ap": abs(mine - asked) <= 0.1 * abs(asked)}[str(prefix)]  # fmt: skip


_FITS = {"token": _token_fits, "reference": _reference_fits, "string": _string_fits, "uri": _uri_fits, "date": _date_fits,
         "quantity": _quantity_fits}  # fmt: skip


# Answering


def candidates(shelf: Shelf, asked: Asked) -> list[Resource]:
    """Resources that could match: of one patient alone where the query names one."""
    if asked.kind == "Patient":
        one = [v for n, v in asked.filters if n == "_id" and "," not in v]
    else:
        one = [v.split("/")[-1] for n, v in asked.filters if _names_patient(n, v)]
    if not one:
        return shelf.all(asked.kind)
    patients = {shelf.patient_of(v) for v in one}
    patient = patients.pop() if len(patients) == 1 else None
    return [] if patient is None else shelf.all(asked.kind, patient)


def _names_patient(name: str, value: str) -> bool:
    return name in ("patient", "subject", "subject:Patient", "patient:Patient") and "," not in value


def found(shelf: Shelf, asked: Asked) -> list[Resource]:
    """All matches, sorted: by `_sort`, or those changed last first."""
    filters = [
        (n, v) for n, v in asked.filters if asked.kind == "Patient" or not _names_patient(n, v)
    ]  # candidates are theirs alone
    kept = [r for r in candidates(shelf, asked) if all(matches(shelf, r, n, v) for n, v in filters)]
    kept.sort(key=lambda r: str(r.get("id")))
    for one in reversed(asked.sort or ["-_lastUpdated"]):
        parameter = _parameter(asked.kind, one.lstrip("-"))
        assert parameter is not None
        kept.sort(key=lambda r, p=parameter: _sortable(r, p), reverse=one.startswith("-"))  # type: ignore[misc]
    return kept


def _sortable(resource: Resource, parameter: Parameter) -> str:
    for value in (v for p in parameter.paths for v in values(resource, p)):
        if isinstance(value, dict):
            inner = values(value, "coding")
            value = (
                value.get("start")
                or value.get("reference")
                or value.get("value")
                or (inner[0].get("code") if inner else value.get("code"))
                or ""
            )
        return str(value)
    return ""


def included(shelf: Shelf, asked: Asked, page: list[Resource]) -> list[Resource]:
    """What `_include` and `_revinclude` bring along, each once."""
    known = {f"{r['resourceType']}/{r['id']}" for r in page}
    more: list[Resource] = []

    def take(resource: Resource | None) -> None:
        if resource is not None and (name := f"{resource['resourceType']}/{resource['id']}") not in known:
            known.add(name)
            more.append(resource)

    for one in asked.include:
        kind, parameter, target = _reference_of("_include", one, "ImagingStudy:patient")
        for resource in [r for r in [*page, *more] if r["resourceType"] == kind]:
            for value in (v for p in parameter.paths for v in values(resource, p)):
                take(_followed(shelf, value, target))
    names = {f"{r['resourceType']}/{r['id']}" for r in page}
    for one in asked.back:
        kind, parameter, _ = _reference_of("_revinclude", one, "Provenance:target")
        if not shelf.readable(kind):
            continue
        for patient in {p for r in page if (p := owner_of(shelf, r)) is not None}:
            for resource in shelf.all(kind, patient):
                if any(isinstance(v, dict) and v.get("reference") in names for p in parameter.paths for v in values(resource, p)):
                    take(resource)
    return more


def _reference_of(what: str, asked: str, example: str) -> tuple[str, Parameter, str]:
    """Type, parameter and target of Type:parameter:target. Raises 400 where it names no reference."""
    kind, name, target = (*asked.split(":"), "", "")[:3]
    parameter = _parameter(kind, name)
    if kind not in KINDS or parameter is None or parameter.kind != "reference":
        raise Problem(400, "BadParameter", f"{what}={asked} names no reference", f"write it as {example}")
    return kind, parameter, target


def owner_of(shelf: Shelf, resource: Resource) -> str | None:
    """The archive's id of the patient that a resource is about."""
    if resource["resourceType"] == "Patient":
        return shelf.patient_of(str(resource["id"]))
    for name in ("subject", "patient"):
        reference = str((resource.get(name) or {}).get("reference") or "")
        if reference.startswith("Patient/"):
            return shelf.patient_of(reference.removeprefix("Patient/"))
    return None


def searched(shelf: Shelf, asked: Asked) -> Resource:
    """A searchset Bundle: one page with links to the others."""
    kept = found(shelf, asked)
    page = [] if asked.only_count else kept[asked.offset : asked.offset + asked.count]
    more = included(shelf, asked, page)
    entries = [_entry(shelf, r, "match") for r in page] + [_entry(shelf, r, "include") for r in more]
    if asked.unknown:
        text = f"not searched by: {', '.join(asked.unknown)}"
        outcome = {
            "resourceType": "OperationOutcome",
            "issue": [{"severity": "warning", "code": "not-supported", "diagnostics": text}],
        }
        entries.append({"resource": outcome, "search": {"mode": "outcome"}})
    return {"resourceType": "Bundle", "type": "searchset", "total": len(kept), "link": _links(shelf, asked, len(kept)),
            **({"entry": entries} if entries else {})}  # fmt: skip


def _entry(shelf: Shelf, resource: Resource, mode: str) -> Resource:
    return {
        "fullUrl": f"{shelf.base}/{resource['resourceType']}/{resource['id']}",
        "resource": resource,
        "search": {"mode": mode},
    }


def _links(shelf: Shelf, asked: Asked, total: int) -> list[Resource]:
    fixed = [*asked.filters, *([("_sort", ",".join(asked.sort))] if asked.sort else []), *(("_include", i) for i in asked.include),
             *(("_revinclude", i) for i in asked.back)]  # fmt: skip

    def link(relation: str, offset: int) -> Resource:
        query = [
            *fixed,
            ("_count", "0" if asked.only_count else str(asked.count)),
            *([("_offset", str(offset))] if offset else []),
        ]
        return {"relation": relation, "url": f"{shelf.base}/{asked.kind}?{urlencode(query)}"}

    links = [link("self", asked.offset)]
    if not asked.only_count:
        if asked.offset > 0:
            links += [link("first", 0), link("previous", max(0, asked.offset - asked.count))]
        if asked.offset + asked.count < total:
            links.append(link("next", asked.offset + asked.count))
    return links
