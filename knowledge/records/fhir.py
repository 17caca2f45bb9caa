"""Read FHIR R4/R5 bundles: one patient's values, each with code, unit, date and path, and report texts."""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from knowledge.errors import Refused
from knowledge.evidence import Coding
from knowledge.records.model import RecordItem
from knowledge.studies.model import Patient

MAX_ENTRIES = 50_000


@dataclass(frozen=True)
class FhirRecord:
    """What a bundle holds: its patient with all identifiers, values, and texts (title, date, text)."""

    patient: Patient
    identifiers: list[str]
    items: list[RecordItem]
    texts: list[tuple[str, str | None, str]] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    """Resources (Type/id) that speak of another patient: refused by name."""
    resources: list[dict[str, Any]] = field(default_factory=list)
    """As they came, but those of another patient."""


def is_fhir(data: bytes) -> bool:
    """True when `data` looks like a JSON object with a resourceType."""
    head = data[:4096].lstrip()
    return head[:1] == b"{" and b'"resourceType"' in data


def is_ndjson(data: bytes) -> bool:
    """True when each of the first lines is a resource of its own."""
    lines = [line for line in data[: 2**20].split(b"\n") if line.strip()]
    whole = lines if len(data) <= 2**20 else lines[:-1]
    return len(whole) > 1 and all(
        line.lstrip()[:1] == b"{" and line.rstrip()[-1:] == b"}" and b'"resourceType"' in line for line in whole[:3]
    )


def read_ndjson(data: bytes) -> list[FhirRecord]:
    """One record for each patient that the lines speak of. Raises Refused: a line that isn't JSON, or resources of nobody."""
    groups: dict[str, list[Any]] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            resource = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Refused(f"line {number} isn't valid JSON", "export the NDJSON again") from error
        if not isinstance(resource, dict) or not isinstance(resource.get("resourceType"), str):
            raise Refused(f"line {number} isn't a FHIR resource", "export the NDJSON again")
        own = resource.get("id") if resource["resourceType"] == "Patient" else _subject(resource)
        groups.setdefault(str(own or "").split("/")[-1].removeprefix("urn:uuid:"), []).append({"resource": resource})
    named = {k: v for k, v in groups.items() if k}
    if not named:
        raise Refused("its resources name no patient", "send them with their subject")
    return [_read({"resourceType": "Bundle", "entry": entries}) for entries in named.values()]


def read_bundle(data: bytes) -> FhirRecord:
    """The record in a Bundle or a single resource. Raises Refused: not JSON, no or several patients."""
    try:
        root = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Refused("it isn't valid JSON", "export the FHIR bundle again") from error
    return _read(root)


def _read(root: Any) -> FhirRecord:
    resources = [r for r in _resources(root) if isinstance(r, dict) and isinstance(r.get("resourceType"), str)]
    if len(resources) > MAX_ENTRIES:
        raise Refused(f"a bundle of {len(resources)} entries is too large", "split it")
    patients = [r for r in resources if r["resourceType"] == "Patient"]
    if len(patients) > 1:
        raise Refused(f"it holds {len(patients)} patients; a case is about one", "send one bundle for each patient")
    references = {s for r in resources if (s := _subject(r))}
    patient, identifiers = _patient(patients[0]) if patients else (Patient(id=""), [])
    foreign: list[str] = []
    if patients:
        known = {patient.id, f"Patient/{patient.id}", f"urn:uuid:{patient.id}", *identifiers, *_urls(root, patients[0])}
        strange = [n for n, r in enumerate(resources) if (s := _subject(r)) and s not in known and s.split("/")[-1] != patient.id]
        foreign = [f"{resources[n]['resourceType']}/{resources[n].get('id') or n}" for n in strange]
        if len(foreign) == len(resources) - 1 and foreign:
            raise Refused(f"its resources ({', '.join(foreign[:5])}) speak of another patient than the one it holds",
                          "send one bundle for each patient")  # fmt: skip
        resources = [r for n, r in enumerate(resources) if n not in set(strange)]
    elif len(references) > 1:
        raise Refused("its resources speak of several patients and it holds none", "send one bundle for each patient")
    if not patients and references:
        only = references.pop().removeprefix("urn:uuid:").removeprefix("Patient/")
        patient, identifiers = Patient(id=only), [only]
    items: list[RecordItem] = []
    texts: list[tuple[str, str | None, str]] = []
    for number, resource in enumerate(resources):
        if not _retracted(resource):
            items += _items(resource, number, resources)
            texts += _texts(resource)
    if not items and not texts and not patients:
        raise Refused("it holds no resource that is read (Patient, Observation, Condition …)", "send a FHIR Bundle")
    return FhirRecord(patient, identifiers, items, texts, foreign, resources)


def _urls(root: dict[str, Any], patient: dict[str, Any]) -> list[str]:
    """The fullUrl of the patient's entry, by which other entries may point to it."""
    return [str(e["fullUrl"]) for e in _dicts(root.get("entry")) if e.get("resource") is patient and e.get("fullUrl")]


_WITHDRAWN = ("entered-in-error", "cancelled", "refuted", "not-done")


def _retracted(resource: dict[str, Any]) -> bool:
    """True for what was entered in error, cancelled, refuted or never done."""
    words = [str(resource.get("status") or "")] + [c.code for c in _concept(resource.get("verificationStatus"))[1]]
    return any(w in _WITHDRAWN for w in words)


def _resources(root: Any) -> list[Any]:
    if not isinstance(root, dict) or "resourceType" not in root:
        raise Refused("it isn't a FHIR resource", "send a FHIR Bundle as JSON")
    if root["resourceType"] != "Bundle":
        return [root]
    entries = root.get("entry") or []
    if not isinstance(entries, list):
        raise Refused("the Bundle's entry isn't a list", "export the FHIR bundle again")
    return [e.get("resource") for e in entries if isinstance(e, dict)]


def _subject(resource: dict[str, Any]) -> str | None:
    for name in ("subject", "patient"):
        reference = resource.get(name)
        if isinstance(reference, dict) and isinstance(reference.get("reference"), str):
            return str(reference["reference"])
    return None


def _patient(resource: dict[str, Any]) -> tuple[Patient, list[str]]:
    identifiers = [str(i["value"]) for i in _dicts(resource.get("identifier")) if i.get("value")]
    own = str(resource.get("id") or (identifiers[0] if identifiers else ""))
    sex = {"male": "M", "female": "F", "other": "O"}.get(str(resource.get("gender")))
    patient = Patient(id=own, birth_date=_day(resource.get("birthDate")), sex=sex)
    return patient, list(dict.fromkeys([*identifiers, own]))


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _day(value: Any) -> str | None:
    return value[:10] if isinstance(value, str) and value else None


def _concept(value: Any) -> tuple[str, list[Coding]]:
    """The words and the codes of a CodeableConcept."""
    if not isinstance(value, dict):
        return "", []
    codes = [
        Coding(system=str(c.get("system", "")), code=str(c.get("code", "")), display=str(c.get("display", "")))
        for c in _dicts(value.get("coding"))
    ]
    words = value.get("text") or next((c.display for c in codes if c.display), "")
    return str(words), codes


_DATES = ("effectiveDateTime", "effectivePeriod", "onsetDateTime", "recordedDate", "authoredOn", "performedDateTime", "performedPeriod",
          "occurrenceDateTime", "issued", "date")  # fmt: skip
_CATEGORIES = {
    "Condition": "condition", "MedicationRequest": "medication", "MedicationStatement": "medication",
    "MedicationAdministration": "medication", "AllergyIntolerance": "allergy", "Procedure": "procedure",
    "FamilyMemberHistory": "family history",
}  # fmt: skip
_VARIANT, _GENE, _CHANGE = "69548-6", ("48018-6",), ("48005-3", "48004-6", "81290-9", "81252-9")
"""LOINC of a genetic variant assessment and of its components: gene, and change (protein, coding DNA, genomic, variant)."""


def _when(resource: dict[str, Any]) -> str | None:
    for name in _DATES:
        value = resource.get(name)
        if day := _day(value.get("start") or value.get("end") if isinstance(value, dict) else value):
            return day
    return None


def _named(resource: dict[str, Any], all_resources: list[dict[str, Any]]) -> tuple[str, list[Coding]]:
    """What a resource is about. Drugs may stand in a resource of their own, family history in its conditions."""
    kind = resource["resourceType"]
    if kind == "FamilyMemberHistory":
        relation = _concept(resource.get("relationship"))[0] or "family member"
        found = [_concept(c.get("code"))[0] for c in _dicts(resource.get("condition"))]
        return (f"{', '.join(filter(None, found))} ({relation})" if any(found) else relation), []
    if not kind.startswith("Medication"):
        return _concept(resource.get("code"))
    name, codes = _concept(resource.get("medicationCodeableConcept"))
    pointed = resource.get("medicationReference")
    if not name and isinstance(pointed, dict):
        wanted = str(pointed.get("reference") or "").split("/")[-1].lstrip("#")
        for other in [*_dicts(resource.get("contained")), *all_resources]:
            if other.get("resourceType") == "Medication" and str(other.get("id")) == wanted:
                return _concept(other.get("code"))
        return str(pointed.get("display") or ""), []
    return name, codes


def _items(resource: dict[str, Any], number: int, all_resources: list[dict[str, Any]]) -> Iterator[RecordItem]:
    kind = resource["resourceType"]
    if kind != "Observation" and kind not in _CATEGORIES:
        return
    name, codes = _named(resource, all_resources)
    status, _ = _concept(resource.get("clinicalStatus"))
    common = {
        "patient_id": "",
        "resource": f"{kind}/{resource.get('id') or number}",
        "date": _when(resource),
        "status": status or resource.get("status") if isinstance(resource.get("status", ""), str) else None,
    }
    if kind != "Observation":
        if name:
            yield _item(common, "code", name, codes, (None, None, ""), _CATEGORIES[kind])
            for place, stage in enumerate(_dicts(resource.get("stage"))):
                if words := _concept(stage.get("summary"))[0]:
                    kind_of_stage = _concept(stage.get("type"))[0] or "stage"
                    yield _item(common, f"stage[{place}].summary", f"{name}: {kind_of_stage}", [], (words, None, ""), "stage")
        return
    groups = [_concept(c)[1] for c in _dicts(resource.get("category"))]
    category = next((c.code for g in groups for c in g if c.code), "observation")
    if any(c.code == _VARIANT for c in codes):
        yield from _variant(resource, common, codes)
        return
    value = _value(resource)
    if name and value[0] is not None:
        yield _item(common, value[2], name, codes, value, category, resource)
    for place, component in enumerate(_dicts(resource.get("component"))):
        part, part_codes = _concept(component.get("code"))
        value = _value(component)
        if part and value[0] is not None:
            path = f"component[{place}].{value[2]}"
            yield _item(common, path, f"{name}: {part}" if name else part, part_codes, value, category, component)


def _variant(resource: dict[str, Any], common: dict[str, Any], codes: list[Coding]) -> Iterator[RecordItem]:
    """A genetic variant (HL7 Genomics Reporting, mCODE) as one value: gene, change, present or absent."""
    parts: dict[str, str] = {}
    for component in _dicts(resource.get("component")):
        value = _value(component)[0]
        parts |= {c.code: str(value) for c in _concept(component.get("code"))[1] if value is not None}
    gene = next((parts[c] for c in _GENE if c in parts), "")
    change = next((parts[c] for c in _CHANGE if c in parts), "")
    found, _, path = _value(resource)
    if gene or change:
        words = f"{change} {str(found).lower()}".strip() if found is not None else change or "reported"
        yield _item(common, path or "component", f"{gene or 'Gene'} variant", codes, (words, None, ""), "genomics")


def _item(
    common: dict[str, Any], path: str, name: str, codes: list[Coding], value: tuple[Any, str | None, str], category: str,
    resource: dict[str, Any] | None = None,
) -> RecordItem:  # fmt: skip
    key = hashlib.sha256(json.dumps([common["resource"], path, name, str(value[0]), common["date"]]).encode()).hexdigest()
    low, high = _range(resource or {})
    told = [_concept(i)[0] or next((c.code for c in _concept(i)[1]), "") for i in _dicts((resource or {}).get("interpretation"))]
    return RecordItem(id=f"ri_{key[:12]}", path=path, name=name, codes=codes, value=value[0], unit=value[1],
                      category=category, low=low, high=high, interpretation=next(filter(None, told), None), **common)  # fmt: skip


def _range(resource: dict[str, Any]) -> tuple[float | None, float | None]:
    """The reference range, where it stands in the value's own unit."""
    for entry in _dicts(resource.get("referenceRange")):
        bounds = []
        for name in ("low", "high"):
            quantity = entry.get(name)
            value = quantity.get("value") if isinstance(quantity, dict) else None
            bounds.append(float(value) if isinstance(value, int | float) else None)
        if any(b is not None for b in bounds):
            return bounds[0], bounds[1]
    return None, None


def _value(resource: dict[str, Any]) -> tuple[Any, str | None, str]:
    quantity = resource.get("valueQuantity")
    if isinstance(quantity, dict) and isinstance(quantity.get("value"), int | float):
        unit = str(quantity.get("unit") or quantity.get("code") or "") or None
        comparator = str(quantity.get("comparator") or "")
        if comparator:
            return f"{comparator}{quantity['value']:g}", unit, "valueQuantity"
        return quantity["value"], unit, "valueQuantity"
    words, codes = _concept(resource.get("valueCodeableConcept"))
    if words or codes:
        return words or codes[0].code, None, "valueCodeableConcept"
    for name in ("valueString", "valueInteger", "valueBoolean", "valueDateTime"):
        if isinstance(resource.get(name), str | int | bool):
            return resource[name], None, name
    return None, None, ""


def _texts(resource: dict[str, Any]) -> Iterator[tuple[str, str | None, str]]:
    if resource["resourceType"] not in ("DocumentReference", "DiagnosticReport"):
        return
    title, _ = _concept(resource.get("type") or resource.get("code"))
    date = _when(resource)
    attachments = [c.get("attachment") for c in _dicts(resource.get("content"))] + _dicts(resource.get("presentedForm"))
    for attachment in attachments:
        if not isinstance(attachment, dict) or not str(attachment.get("contentType", "")).startswith("text/plain"):
            continue
        try:
            text = base64.b64decode(attachment.get("data") or "", validate=True).decode("utf-8")
        except (binascii.Error, ValueError):
            continue
        if text.strip():
            yield title or "Clinical note", date, text
