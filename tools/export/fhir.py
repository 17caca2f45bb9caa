"""FHIR R4 resources of what the house holds: studies, measurements, reports, and where each comes from (HL7 FHIR 4.0.1; mCODE 4)."""

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from pydicom.sr.codedict import codes

from knowledge.evidence import Fact, ImageRef, Kind, RuleRef
from knowledge.records.model import Report
from knowledge.records.units import ucum
from knowledge.reporting.drafts import Draft
from knowledge.studies.model import Patient, Series, Study
from knowledge.studies.query import Stored
from knowledge.studies.resources import logical_id
from tools.concepts import LONG_AXIS, SHORT_AXIS, WHOLE_TUMOUR

Resource = dict[str, Any]
UCUM, LOINC, SCT, DCM = (
    "http://unitsofmeasure.org",
    "http://loinc.org",
    "http://snomed.info/sct",
    "http://dicom.nema.org/resources/ontology/DCM",
)
UIDS = "urn:dicom:uid"
OBSERVATION_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
TUMOUR_SIZE = "http://hl7.org/fhir/us/mcode/StructureDefinition/mcode-tumor-size"
"""mCODE's profile: LOINC 21889-1 with the components 33728-7 (longest) and 33729-5 (further dimension), `focus` the tumour's BodyStructure."""
SOFTWARE = "Device/consilium"
NOTE = "Research use only; not a medical device."
MCODE = "http://hl7.org/fhir/us/mcode/StructureDefinition/"
AJCC = "http://cancerstaging.org"
STAGED = {
    "T": ("399504009", "21905-5", "Primary tumor.clinical [Class] Cancer", "mcode-tnm-primary-tumor-category"),
    "N": ("399534004", "21906-3", "Regional lymph nodes.clinical [Class] Cancer", "mcode-tnm-regional-nodes-category"),
    "M": ("399387003", "21907-1", "Distant metastases.clinical [Class] Cancer", "mcode-tnm-distant-metastases-category"),
    "": ("399537006", "21908-9", "Stage group.clinical Cancer", ""),
}
"""Of each category and of the group: SNOMED CT, LOINC, its name there, and mCODE's profile (mCODE 4.0.0, value sets mcode-tnm-*-staging-type)."""
STAGING = {"tnm_lung_9": "1269566009", "tnm_kidney_8": "897275008", "tnm_breast_8": "897275008"}
"""Rules that stage, and the edition as SNOMED CT has it (mCODE 4.0.0, value set mcode-tnm-staging-method)."""
TNM = re.compile(r"(T\S+?) (N\S+?) (M\S+?)[,.]")


def own_id(name: str) -> str:
    """A name of ours (st_…, d_…, c_….E3) as a logical id."""
    return name.replace("_", "-")


def reference_to(patient_id: str) -> Resource:
    """A reference to a patient."""
    return {"reference": f"Patient/{logical_id(patient_id)}", "identifier": {"value": patient_id}}


def coded(code: Any) -> Resource:
    """A code of DICOM's dictionary as a Coding."""
    system = {"SCT": SCT, "DCM": DCM, "LN": LOINC}[code.scheme_designator]
    return {"system": system, "code": code.value, "display": code.meaning}


def site(body_part: str) -> Resource | None:
    """Body Part Examined as a concept: by SNOMED CT where DICOM's dictionary has the word."""
    if not body_part:
        return None
    try:
        coding = [coded(getattr(codes.SCT, "".join(w.title() for w in body_part.replace("_", " ").split())))]
    except (AttributeError, KeyError):
        coding = []
    return {**({"coding": coding} if coding else {}), "text": body_part.lower()}


def software(version: str) -> Resource:
    """What answers and drafts."""
    return {
        "resourceType": "Device", "id": SOFTWARE.partition("/")[2], "status": "active", "manufacturer": "Consilium developers",
        "deviceName": [{"name": "Consilium (research use only)", "type": "user-friendly-name"}],
        "version": [{"value": version}], "note": [{"text": NOTE}],
    }  # fmt: skip


def patient(of: Patient, sent: Resource | None = None) -> Resource:
    """A patient without name and address. `sent`: what an EHR told of them (`resources.Kept.data`)."""
    gender = {"M": "male", "F": "female", "O": "other"}.get(of.sex or "", "unknown")
    known = {k: v for k, v in (sent or {}).items() if k not in ("id", "resourceType")}
    identifiers = known.pop("identifier", None) or []
    if not any(isinstance(i, dict) and i.get("value") == of.id for i in identifiers):
        kind = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]}
        identifiers = [*identifiers, {"use": "usual", "type": kind, "value": of.id}]
    return {"resourceType": "Patient", "id": logical_id(of.id), "identifier": identifiers, "gender": gender,
            **({"birthDate": of.birth_date} if of.birth_date else {}), **known}  # fmt: skip


def imaging_study(study: Study, updated: str, instances: Sequence[Stored] | None, endpoint: str | None = None) -> Resource:
    """An ImagingStudy. `instances`: of a DICOM study, listed with their series; None: left out, and marked so."""
    images = [s for s in study.series if s.modality]
    listed: dict[str, list[Resource]] = {}
    for one in instances or []:
        listed.setdefault(one.series_uid, []).append(
            {"uid": one.sop_uid, "sopClass": {"system": "urn:ietf:rfc:3986", "code": f"urn:oid:{one.sop_class}"}}
        )
    shortened = instances is None and study.source.format == "DICOM"
    meta: Resource = {"lastUpdated": updated}
    if shortened:
        meta["tag"] = [{"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}]
    unique = {s.series_uid: s for s in images}
    return {
        "resourceType": "ImagingStudy", "id": own_id(study.id), "meta": meta, "status": "available",
        **({"identifier": [{"system": UIDS, "value": f"urn:oid:{study.study_instance_uid}"}]} if study.study_instance_uid else {}),
        "modality": [{"system": DCM, "code": m} for m in study.modalities], "subject": reference_to(study.patient_id),
        **({"started": study.date} if study.date else {}),
        **({"endpoint": [{"reference": f"Endpoint/{endpoint}"}]} if endpoint and study.source.format == "DICOM" else {}),
        "numberOfSeries": len(unique), "numberOfInstances": sum(s.instances for s in unique.values()),
        **({"description": study.description} if study.description else {}),
        "series": [_series(s, listed.get(uid)) for uid, s in unique.items()],
    }  # fmt: skip


def _series(series: Series, instances: list[Resource] | None) -> Resource:
    place = site(series.body_part)
    number = series.header.get("SeriesNumber")
    return {
        "uid": series.series_uid, **({"number": int(number)} if isinstance(number, int) and number >= 0 else {}),
        "modality": {"system": DCM, "code": series.modality}, **({"description": series.description} if series.description else {}),
        "numberOfInstances": series.instances,
        **({"bodySite": place["coding"][0]} if place and place.get("coding") else {}),
        **({"instance": instances} if instances else {}),
    }  # fmt: skip


def document(report: Report, updated: str) -> Resource:
    """A report as a DocumentReference, word for word."""
    text = report.text.encode()
    return {
        "resourceType": "DocumentReference", "id": own_id(report.id), "meta": {"lastUpdated": updated}, "status": "current",
        "type": {"coding": [{"system": LOINC, "code": "18748-4", "display": "Diagnostic imaging study"}], "text": report.title},
        "subject": reference_to(report.patient_id), "date": updated, "description": report.title,
        "content": [{"attachment": {
            "contentType": "text/plain; charset=utf-8", "data": base64.b64encode(text).decode(), "size": len(text),
            "hash": base64.b64encode(hashlib.sha1(text, usedforsecurity=False).digest()).decode(), "title": report.title,
            **({"creation": report.date} if report.date else {})}}],
    }  # fmt: skip


# Measurements


def measured(
    fact: Fact, own: str, patient_id: str, status: str, study: Study | None, side: str = "", linked: bool = True
) -> Resource:
    """A measurement as an Observation in UCUM, derived from its study and series; `focus` is what was measured, with its side.

    `own`: its logical id. `linked`: with references into this server; else it stands by itself, in a file that goes elsewhere. Raises TypeError for a fact that isn't taken from an image.
    """
    if fact.kind is not Kind.MEASUREMENT or not isinstance(fact.source, ImageRef):
        raise TypeError("only a measurement on images is an Observation here")
    source = fact.source
    place = _place_of(source, study)
    return {
        "resourceType": "Observation", "id": own, "status": status, **(_focus(place, side, patient_id) if linked else {}),
        "category": [{"coding": [{"system": OBSERVATION_CATEGORY, "code": "imaging"}]}],
        "code": {**({"coding": [fact.code.model_dump()]} if fact.code else {}), "text": fact.title},
        "subject": reference_to(patient_id) if linked else {"identifier": {"value": patient_id}},
        **({"effectiveDateTime": study.date} if study and study.date else {}),
        "valueQuantity": quantity(fact.value, fact.unit),
        **({"bodySite": place} if place else {}), "method": {"text": models_of([fact])[0]},
        "device": {**({"reference": SOFTWARE} if linked else {}), "display": "Consilium (research use only)"},
        "derivedFrom": derived_from(source, study if linked else None), "note": [{"text": f"{fact.statement} {NOTE}"}],
    }  # fmt: skip


def quantity(value: Any, unit: str | None) -> Resource:
    """A number with its unit, in UCUM where the unit has a code there."""
    code = ucum(unit)
    return {"value": value, "unit": unit, **({"system": UCUM, "code": code} if code else {})}


def derived_from(source: ImageRef, study: Study | None) -> list[Resource]:
    """The study, and the series by its UID."""
    series = {"type": "ImagingStudy", "identifier": {"system": UIDS, "value": f"urn:oid:{source.series_uid}"}, "display": "the series that was read"}  # fmt: skip
    if study is None:
        return [series]
    return [{"reference": f"ImagingStudy/{own_id(study.id)}",
             **({"identifier": {"system": UIDS, "value": f"urn:oid:{study.study_instance_uid}"}} if study.study_instance_uid else {})}, series]  # fmt: skip


def _place_of(source: ImageRef, study: Study | None) -> Resource | None:
    if study is None:
        return None
    return site(next((s.body_part for s in study.series if s.series_uid == source.series_uid), "") or study.body_part)


def _focus(place: Resource | None, side: str, patient_id: str) -> Resource:
    """A contained BodyStructure with its side: R4's Observation has no place for a laterality of its own."""
    if place is None:
        return {}
    sides = {"left": codes.SCT.Left, "right": codes.SCT.Right}
    structure: Resource = {
        "resourceType": "BodyStructure", "id": "focus", "morphology": {"text": "measured region"}, "location": place,
        "patient": reference_to(patient_id),
        **({"locationQualifier": [{"coding": [coded(sides[side])], "text": side}]} if side in sides else {}),
    }  # fmt: skip
    return {"contained": [structure], "focus": [{"reference": "#focus"}]}


def tumour_sizes(facts: Sequence[tuple[Fact, str]], patient_id: str, status: str, study_of: Callable[[str], Study | None],
                 sides: dict[str, str]) -> list[Resource]:  # fmt: skip
    """mCODE tumour sizes of outlined tumours: the longest axis with the one across it. `facts`: with the logical id of each; `sides`: by mask."""
    found: dict[str, dict[str, tuple[Fact, str]]] = {}
    for fact, own in facts:
        if (
            fact.kind is Kind.MEASUREMENT
            and isinstance(fact.source, ImageRef)
            and fact.source.mask
            and fact.code in (LONG_AXIS, SHORT_AXIS)
        ):
            found.setdefault(fact.source.mask, {})[fact.code.code] = (fact, own)
    made = []
    for mask, axes in found.items():
        if LONG_AXIS.code not in axes:
            continue
        fact, own = axes[LONG_AXIS.code]
        assert isinstance(fact.source, ImageRef)
        resource = measured(fact, f"{own}-size", patient_id, status, study_of(fact.source.study_id), sides.get(mask, ""))
        resource.pop("valueQuantity")
        if "contained" in resource:
            resource["contained"][0]["morphology"] = {"text": "tumour"}
        parts = [("33728-7", "Size.maximum dimension in Tumor", fact)]
        if SHORT_AXIS.code in axes:
            parts.append(("33729-5", "Size additional dimension in Tumor", axes[SHORT_AXIS.code][0]))
        resource |= {
            "meta": {"profile": [TUMOUR_SIZE]},
            "code": {"coding": [{"system": LOINC, "code": "21889-1", "display": "Size Tumor"}], "text": "Tumour size"},
            "component": [{"code": {"coding": [{"system": LOINC, "code": c, "display": d}]}, "valueQuantity": quantity(f.value, f.unit)}
                          for c, d, f in parts],
            "hasMember": [{"reference": f"Observation/{axes[a][1]}"} for a in axes],
        }  # fmt: skip
        made.append(resource)
    return made


def clinical_tnm(facts: Sequence[tuple[Fact, str]], patient_id: str, status: str) -> list[Resource]:
    """mCODE's clinical T, N and M that a staging rule worked out from what imaging shows, and the stage group where all three are.

    A category that somebody assigned before may be pathological: it isn't given again here, and there is no group then. The group doesn't
    claim mCODE's profile, which wants the patient's cancer as a Condition of the record.
    """
    made: list[Resource] = []
    for fact, own in facts:
        source = fact.source
        if (
            fact.kind is not Kind.RULE
            or not isinstance(source, RuleRef)
            or source.rule not in STAGING
            or not isinstance(fact.value, dict)
        ):
            continue
        named = TNM.match(str(fact.value.get("recommendation")))
        parts = [(a, v) for a, v in zip("TNM", named.groups() if named else (), strict=False)
                 if not v.endswith("?") and f"{a.lower()}_category" not in source.inputs]  # fmt: skip
        told = [_staged(fact, f"{own}-{axis.lower()}", axis, f"c{value}", patient_id, status) for axis, value in parts]
        made += told
        if len(told) == 3 and fact.value.get("category"):
            group = _staged(fact, f"{own}-stage", "", str(fact.value["category"]), patient_id, status)
            made.append({**group, "hasMember": [{"reference": f"Observation/{o['id']}"} for o in told]})
    return made


def _staged(fact: Fact, own: str, axis: str, value: str, patient_id: str, status: str) -> Resource:
    assert isinstance(fact.source, RuleRef)
    snomed, loinc, display, profile = STAGED[axis]
    return {
        "resourceType": "Observation", "id": own, "status": status, **({"meta": {"profile": [MCODE + profile]}} if profile else {}),
        "category": [{"coding": [{"system": OBSERVATION_CATEGORY, "code": "imaging"}]}],
        "code": {"coding": [{"system": SCT, "code": snomed}, {"system": LOINC, "code": loinc, "display": display}], "text": display},
        "subject": reference_to(patient_id), "valueCodeableConcept": {"coding": [{"system": AJCC, "code": value}], "text": value},
        "method": {"coding": [{"system": SCT, "code": STAGING[fact.source.rule]}], "text": fact.source.document},
        "device": {"reference": SOFTWARE, "display": "Consilium (research use only)"}, "note": [{"text": f"{fact.statement} {NOTE}"}],
    }  # fmt: skip


def sides_of(facts: Sequence[Fact]) -> dict[str, str]:
    """The side of each outlined region, by its mask."""
    return {f.source.mask: str(f.value["side"]) for f in facts
            if f.kind is Kind.FINDING and f.code == WHOLE_TUMOUR and isinstance(f.source, ImageRef) and f.source.mask
            and isinstance(f.value, dict) and f.value.get("side")}  # fmt: skip


# Reports


def conclusions(draft: Draft) -> list[Resource]:
    """Categories of computed guidelines that the draft stands on."""
    found = [(f.source.rule, f.value["category"]) for f in draft.facts
             if f.kind is Kind.RULE and isinstance(f.source, RuleRef) and isinstance(f.value, dict) and f.value.get("category")]  # fmt: skip
    return [{"coding": [{"system": f"urn:consilium:rule:{rule}", "code": str(category)}], "text": str(category)}
            for rule, category in dict.fromkeys((r, str(c)) for r, c in found)]  # fmt: skip


def models_of(facts: Sequence[Fact]) -> list[str]:
    """Each model with its version that facts on images come from, in order."""
    return [f"{f.source.model} {f.source.model_version}".strip() for f in facts if isinstance(f.source, ImageRef)]


def provenance(target: str, recorded: str, models: Sequence[str], version: str, sources: Sequence[Resource], question: str = "",
               person: str = "", confirmed: Sequence[str] = ()) -> Resource:  # fmt: skip
    """Which software and models made `target` (Type/id), from what, for which question, who signed it, and who confirmed that it be sent."""
    kind = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
    agents: list[Resource] = [
        {"type": {"coding": [{"system": kind, "code": "assembler"}]}, "who": {"reference": SOFTWARE, "display": version}}
    ]
    agents += [{"type": {"coding": [{"system": kind, "code": "performer"}]}, "who": {"display": m}, "onBehalfOf": {"reference": SOFTWARE}}
               for m in dict.fromkeys(models) if m]  # fmt: skip
    if person:
        agents.append({"type": {"coding": [{"system": kind, "code": "attester"}]}, "who": {"display": person}})
    agents += [
        {"type": {"coding": [{"system": kind, "code": "verifier"}]}, "who": {"display": c}} for c in dict.fromkeys(confirmed) if c
    ]
    return {
        "resourceType": "Provenance", "id": f"pv-{target.partition('/')[2]}"[:64], "target": [{"reference": target}], "recorded": recorded,
        **({"reason": [{"text": question}]} if question else {}), "agent": agents,
        **({"entity": [{"role": "source", "what": s} for s in sources]} if sources else {}),
    }  # fmt: skip
