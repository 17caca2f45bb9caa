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
    known = {patient.id, f"Patient/{patient.id}", f"urn:uuid:{patient.id}", *identifiers}
    if len(references - known) > (0 if patients else 1):
        raise Refused("its resources speak of another patient than the one it holds", "send one bundle for each patient")
    if not patients and references:
        only = references.pop().removeprefix("urn:uuid:").removeprefix("Patient/")
        patient, identifiers = Patient(id=only), [only]
    items: list[RecordItem] = []
    texts: list[tuple[str, str | None, str]] = []
    for number, resource in enumerate(resources):
        items += _items(resource, number)
        texts += _texts(resource)
    if not items and not texts and not patients:
        raise Refused("it holds no resource that is read (Patient, Observation, Condition …)", "send a FHIR Bundle")
    return FhirRecord(patient, identifiers, items, texts)


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


_DATES = ("effectiveDateTime", "onsetDateTime", "recordedDate", "authoredOn", "performedDateTime", "occurrenceDateTime",
          "issued", "date")  # fmt: skip
_CATEGORIES = {
    "Condition": "condition", "MedicationRequest": "medication", "MedicationStatement": "medication",
    "MedicationAdministration": "medication", "AllergyIntolerance": "allergy", "Procedure": "procedure",
    "FamilyMemberHistory": "family history",
}  # fmt: skip
_CODE_FIELD = {"MedicationRequest": "medicationCodeableConcept", "MedicationStatement": "medicationCodeableConcept",
               "MedicationAdministration": "medicationCodeableConcept"}  # fmt: skip


def _items(resource: dict[str, Any], number: int) -> Iterator[RecordItem]:
    kind = resource["resourceType"]
    if kind != "Observation" and kind not in _CATEGORIES:
        return
    name, codes = _concept(resource.get(_CODE_FIELD.get(kind, "code")))
    status, _ = _concept(resource.get("clinicalStatus"))
    common = {
        "patient_id": "",
        "resource": f"{kind}/{resource.get('id') or number}",
        "date": next((d for f in _DATES if (d := _day(resource.get(f)))), None),
        "status": status or resource.get("status") if isinstance(resource.get("status", ""), str) else None,
    }
    if kind != "Observation":
        if name:
            yield _item(common, "code", name, codes, None, None, _CATEGORIES[kind])
        return
    groups = [_concept(c)[1] for c in _dicts(resource.get("category"))]
    category = next((c.code for g in groups for c in g if c.code), "observation")
    value, unit, field_name = _value(resource)
    if name and value is not None:
        yield _item(common, field_name, name, codes, value, unit, category)
    for place, component in enumerate(_dicts(resource.get("component"))):
        part, part_codes = _concept(component.get("code"))
        value, unit, field_name = _value(component)
        if part and value is not None:
            path = f"component[{place}].{field_name}"
            yield _item(common, path, f"{name}: {part}" if name else part, part_codes, value, unit, category)


def _item(
    common: dict[str, Any], path: str, name: str, codes: list[Coding], value: Any, unit: str | None, category: str
) -> RecordItem:
    key = hashlib.sha256(json.dumps([common["resource"], path, name, str(value), common["date"]]).encode()).hexdigest()
    return RecordItem(id=f"ri_{key[:12]}", path=path, name=name, codes=codes, value=value, unit=unit,
                      category=category, **common)  # fmt: skip


def _value(resource: dict[str, Any]) -> tuple[Any, str | None, str]:
    quantity = resource.get("valueQuantity")
    if isinstance(quantity, dict) and isinstance(quantity.get("value"), int | float):
        return quantity["value"], str(quantity.get("unit") or quantity.get("code") or "") or None, "valueQuantity"
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
    date = next((d for f in _DATES if (d := _day(resource.get(f)))), None)
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
