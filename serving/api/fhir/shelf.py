"""Every FHIR resource that the house can give: what came as such, and what is made of studies, reports, drafts, answers and the audit."""

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from agent.assistant import SOFTWARE
from agent.memory import Message
from knowledge.errors import NotFound
from knowledge.evidence import Evidence, Fact, ImageRef, Kind
from knowledge.reporting.drafts import Draft
from knowledge.studies import arrivals
from knowledge.studies.audit import AuditEntry
from knowledge.studies.model import Study
from knowledge.studies.query import DicomIndex
from knowledge.studies.resources import logical_id
from serving.access.grants import Grant, allows
from serving.house import House
from tools.export import fhir
from tools.export.report import as_fhir

Resource = dict[str, Any]
ENDPOINT = "dicomweb"
LOGICAL = "urn:consilium:logical-id"
"""System of the ids by which others know a patient whom the archive knew by another."""
MADE = (
    "Patient",
    "ImagingStudy",
    "DiagnosticReport",
    "Observation",
    "DocumentReference",
    "Provenance",
    "AuditEvent",
    "Device",
    "Endpoint",
)
"""Types that are made here; others are given back as they came."""
TAKEN = ("AllergyIntolerance", "BodyStructure", "CarePlan", "Condition", "Encounter", "FamilyMemberHistory", "Immunization", "Medication",
         "MedicationAdministration", "MedicationRequest", "MedicationStatement", "Organization", "Practitioner", "Procedure", "ServiceRequest",
         "Specimen")  # fmt: skip
_ACTIONS = {"import": ("110107", "Import", "C"), "delete": ("110105", "DICOM Study Deleted", "D"), "export": ("110106", "Export", "R"),
            "store result": ("110103", "DICOM Instances Accessed", "C")}  # fmt: skip
"""Audit event types of DICOM PS3.15 A.5 (CID 400) and R4's actions; others are 110100, application activity, executed."""
MOST_AUDITED = 10_000


class Shelf:
    """Resources of one request. `grant`: who asks; None: the house itself. `confirmed`: who confirmed that a draft be sent. `only`: the one patient that the caller may see."""

    def __init__(
        self, house: House, base: str, grant: Grant | None = None, confirmed: Callable[[str], list[str]] = lambda draft_id: []
    ) -> None:
        self.house, self.archive, self.base, self.grant = house, house.archive, base, grant
        self.only = grant.patient if grant else None
        self._confirmed = confirmed
        self.version = SOFTWARE

    def readable(self, kind: str) -> bool:
        """Whether the caller's scopes let resources of a type be read."""
        return self.grant is None or self.grant.scopes is None or allows(self.grant.scopes, "read", kind)

    # Whose

    def patient_of(self, own: str) -> str | None:
        """The archive's id of the patient with this logical id, where the caller may see them."""
        try:
            found = self.archive.patient(own).id
        except NotFound:
            found = next((p for p in self.archive.patient_ids() if logical_id(p) == own), "") or self._alias(own)
        return found if found and self.only in (None, found) else None

    def _alias(self, own: str) -> str:
        """The patient whom others know by this id."""
        for sent in self.archive.kept_resources("Patient"):
            if any(
                i.get("system") == LOGICAL and i.get("value") == own
                for i in sent.data.get("identifier") or []
                if isinstance(i, dict)
            ):
                return sent.patient_id
        return ""

    def patients(self) -> list[str]:
        """The patients whom the caller may see."""
        return [p for p in self.archive.patient_ids() if self.only in (None, p)]

    # What

    def all(self, kind: str, patient: str | None = None) -> list[Resource]:
        """Resources of a type: of one patient, or of all whom the caller may see. What belongs to nobody is given to those who may see all."""
        if self.only is not None and patient not in (None, self.only):
            return []
        patient = patient or self.only
        made = {"Patient": self._patients, "ImagingStudy": self._studies, "DocumentReference": self._documents,
                "DiagnosticReport": self._drafted, "Observation": self._measured, "Provenance": self._provenances}  # fmt: skip
        sent = [] if kind == "Patient" else [k.data for k in self.archive.kept_resources(kind, patient)]
        if kind in made:
            return [*sent, *made[kind](patient)]
        if kind == "AuditEvent":
            return [] if patient else [*sent, *map(_audited, self.archive.audit(MOST_AUDITED))]
        if kind == "Device":
            return [*sent, fhir.software(self.version)]
        if kind == "Endpoint":
            return [*sent, self._endpoint()]
        return sent

    def get(self, kind: str, own: str) -> Resource:
        """One resource. Raises NotFound."""
        found = self.one(kind, own)
        if found is None:
            raise NotFound(f"there is no {kind}/{own}", "search for it first")
        return found

    def one(self, kind: str, own: str) -> Resource | None:
        """One resource, or None."""
        if kind != "Patient" and (sent := self.archive.kept_resource(kind, own)) is not None:
            return sent.data if self.only in (None, sent.patient_id) else None
        if kind == "Patient":
            patient = self.patient_of(own)
            return None if patient is None else self._patient(patient)
        if kind == "ImagingStudy":
            return self._study(own)
        if kind in ("Device", "Endpoint"):
            return next((r for r in self.all(kind) if r["id"] == own), None)
        return next((r for r in self.all(kind, self._owner(kind, own)) if r["id"] == own), None)

    def _owner(self, kind: str, own: str) -> str | None:
        """The patient whose a made resource is, where its id tells: then theirs alone are made."""
        scope = own.removeprefix("pv-").split(".")[0].removesuffix("-size")
        try:
            if scope.startswith("d-"):
                return self.house.resources.drafts.get("d_" + scope[2:]).patient_id
            if scope.startswith("c-"):
                return self.house.memory.conversation("c_" + scope[2:]).patient_id
            if scope.startswith("rp-"):
                return self.archive.report("rp_" + scope[3:]).patient_id
        except Exception:
            return None
        return None

    # Made

    def _patients(self, patient: str | None) -> list[Resource]:
        return [self._patient(p) for p in ([patient] if patient else self.patients())]

    def _patient(self, patient: str) -> Resource:
        sent = self.archive.kept_resource("Patient", logical_id(patient))
        return fhir.patient(self.archive.patient(patient), sent.data if sent else None)

    def _studies(self, patient: str | None) -> list[Resource]:
        studies = self.archive.studies(patient)
        when = arrivals.of_studies(self.archive, [s.id for s in studies])
        return [fhir.imaging_study(s, when.get(s.id, arrivals.LONG_AGO), None, ENDPOINT) for s in studies]

    def _study(self, own: str) -> Resource | None:
        try:
            study = self.archive.study(own.replace("-", "_", 1))
        except NotFound:
            return None
        if self.only not in (None, study.patient_id):
            return None
        uid = study.study_instance_uid if study.source.format == "DICOM" else None
        instances = DicomIndex(self.archive).stored(uid) if uid else []
        updated = arrivals.of_studies(self.archive, [study.id]).get(study.id, arrivals.LONG_AGO)
        return fhir.imaging_study(study, updated, instances, ENDPOINT)

    def _documents(self, patient: str | None) -> list[Resource]:
        when = arrivals.of_reports(self.archive, patient)
        whose = [patient] if patient else self.archive.patients_with_reports()
        return [fhir.document(r, when[r.id]) for p in whose for r in self.archive.reports(p) if r.id in when]

    def _drafts(self, patient: str | None) -> Iterable[Draft]:
        for one in [patient] if patient else self.patients():
            yield from self.house.resources.drafts.of_patient(one)

    def _drafted(self, patient: str | None) -> list[Resource]:
        return [self.report(d) for d in self._drafts(patient)]

    def report(self, draft: Draft) -> Resource:
        """A draft or a signed report as a DiagnosticReport that refers to the other resources."""
        study = self._known_study(draft.study_id)
        made = as_fhir(draft, self.archive.patient(draft.patient_id), study)
        made.pop("contained", None)
        made["id"] = fhir.own_id(draft.id)
        made["meta"] = {"versionId": str(draft.version), "lastUpdated": draft.signature.at if draft.signature else draft.created}
        made["subject"] = fhir.reference_to(draft.patient_id)
        if study is not None:
            made["imagingStudy"] = [{"reference": f"ImagingStudy/{fhir.own_id(study.id)}"}]
        results = [{"reference": f"Observation/{o['id']}"} for o in self._of_draft(draft)]
        made.pop("result", None)
        return {**made, **({"result": results} if results else {})}

    def _of_draft(self, draft: Draft) -> list[Resource]:
        numbered = self.house.memory.number(draft.id, draft.facts, draft.patient_id)
        when = draft.signature.at if draft.signature else draft.created
        return self._observations([(e, f"{draft.id}.{e.id}") for e in numbered], draft.patient_id, when, "final" if draft.signature else "preliminary")  # fmt: skip

    def _observations(self, facts: list[tuple[Evidence, str]], patient: str, when: str, status: str) -> list[Resource]:
        sides = fhir.sides_of([f for f, _ in facts])
        named: list[tuple[Fact, str]] = [(f, fhir.own_id(n)) for f, n in facts]
        made = [fhir.measured(f, own, patient, status, self._known_study(f.source.study_id), sides.get(f.source.mask or "", ""))
                for f, own in named if f.kind is Kind.MEASUREMENT and isinstance(f.source, ImageRef)]  # fmt: skip
        made += fhir.tumour_sizes(named, patient, status, self._known_study, sides)
        staged = fhir.clinical_tnm(named, patient, status)
        for one in staged:
            one["effectiveDateTime"] = when
        made += staged
        for one in made:
            one["meta"] = {**one.get("meta", {}), "lastUpdated": when}
            one["issued"] = when
        return made

    def _known_study(self, study_id: str | None) -> Study | None:
        if study_id not in self._told_studies:
            try:
                self._told_studies[study_id] = self.archive.study(study_id) if study_id else None
            except NotFound:
                self._told_studies[study_id] = None
        return self._told_studies[study_id]

    @cached_property
    def _told_studies(self) -> dict[str | None, Study | None]:
        return {}

    def _answers(self, patient: str | None) -> Iterable[tuple[str, str, Message]]:
        """(patient, conversation, message) of each answer, oldest first."""
        memory = self.house.memory
        for listed in reversed(memory.listed(patient, "", True, MOST_AUDITED)):
            if listed.patient_id and self.only in (None, listed.patient_id):
                for message in memory.messages(listed.id):
                    yield listed.patient_id, listed.id, message

    def _measured(self, patient: str | None) -> list[Resource]:
        made = [o for d in self._drafts(patient) for o in self._of_draft(d)]
        told = {_same(o) for o in made}
        for owner, scope, message in self._answers(patient):
            facts = [(e, f"{scope}.{e.id}") for e in message.answer.evidence]
            for one in self._observations(facts, owner, message.created, "preliminary"):
                if _same(one) not in told:
                    told.add(_same(one))
                    made.append(one)
        return made

    def _provenances(self, patient: str | None) -> list[Resource]:
        made = []
        for draft in self._drafts(patient):
            study = self._known_study(draft.study_id)
            sources = [{"reference": f"ImagingStudy/{fhir.own_id(study.id)}"}] if study else []
            models = fhir.models_of(draft.facts)
            when = draft.signature.at if draft.signature else draft.created
            person = draft.signature.name if draft.signature else ""
            for target in (
                f"DiagnosticReport/{fhir.own_id(draft.id)}",
                *(f"Observation/{o['id']}" for o in self._of_draft(draft)),
            ):
                made.append(fhir.provenance(target, when, models, draft.software or self.version, sources, person=person,
                                            confirmed=self._confirmed(draft.id)))  # fmt: skip
        seen: set[str] = set()
        for _, scope, message in self._answers(patient):
            for fact in message.answer.evidence:
                target = f"Observation/{fhir.own_id(f'{scope}.{fact.id}')}"
                if fact.kind is Kind.MEASUREMENT and isinstance(fact.source, ImageRef) and target not in seen:
                    seen.add(target)
                    sources = fhir.derived_from(fact.source, self._known_study(fact.source.study_id))
                    told = message.answer.provenance
                    version = f"{told.software}, planner {told.planner.model}"
                    made.append(
                        fhir.provenance(target, message.created, fhir.models_of([fact]), version, sources, message.question)
                    )
        for one in made:
            one["meta"] = {"lastUpdated": one["recorded"]}
        return made

    def _endpoint(self) -> Resource:
        root = self.base.removesuffix("/fhir")
        kind = "http://terminology.hl7.org/CodeSystem/endpoint-connection-type"
        return {"resourceType": "Endpoint", "id": ENDPOINT, "status": "active", "connectionType": {"system": kind, "code": "dicom-wado-rs"},
                "name": "DICOMweb", "payloadType": [{"text": "DICOM"}], "payloadMimeType": ["application/dicom"],
                "address": f"{root}/dicom-web"}  # fmt: skip


def _same(observation: Resource) -> str:
    """What makes two Observations one: what was measured, where, with what result."""
    keys = ("subject", "code", "valueQuantity", "valueCodeableConcept", "component", "derivedFrom", "note")
    return repr([observation.get(k) for k in keys])


def _audited(entry: AuditEntry) -> Resource:
    code, display, action = _ACTIONS.get(entry.action, ("110100", "Application Activity", "E"))
    subject = entry.subject
    entity = [{"what": {"identifier": {"system": "urn:consilium", "value": subject}},
               **({"detail": [{"type": str(k), "valueString": str(v)} for k, v in entry.detail.items()]} if entry.detail else {})}]  # fmt: skip
    return {
        "resourceType": "AuditEvent", "id": f"a-{entry.number}", "meta": {"lastUpdated": entry.at},
        "type": {"system": fhir.DCM, "code": code, "display": display}, "subtype": [{"system": "urn:consilium:audit", "code": entry.action.replace(" ", "-"), "display": entry.action}], "action": action,
        "recorded": entry.at, "outcome": "0", "agent": [{"who": {"display": entry.actor}, "requestor": True}],
        "source": {"observer": {"reference": fhir.SOFTWARE, "display": "Consilium"}},
        **({"entity": entity} if subject or entry.detail else {}),
    }  # fmt: skip
