"""Taking resources in: create, update, and Bundles (transaction, batch), with conditional create; the same sent twice changes nothing.

A transaction is about one patient and is taken whole or not at all. What it brings joins the patient's record.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from knowledge.errors import NotFound
from knowledge.studies.intake import Hints
from knowledge.studies.resources import logical_id, made_id
from knowledge.studies.unpack import from_bytes
from serving.api.fhir.search import Asked, found, understood
from serving.api.fhir.shelf import LOGICAL, TAKEN, Shelf
from serving.errors import Problem, outcome, problem

Resource = dict[str, Any]
WRITABLE = ("Patient", "Observation", "DiagnosticReport", "DocumentReference", "Provenance", *TAKEN)
MOST_ENTRIES = 5000
REQUIRED = {
    "Observation": ("status", "code"), "DiagnosticReport": ("status", "code"), "DocumentReference": ("status", "content"), "Procedure": ("status",),
    "MedicationRequest": ("status", "intent"), "MedicationStatement": ("status",), "MedicationAdministration": ("status",),
    "ServiceRequest": ("status", "intent"), "Encounter": ("status", "class"), "FamilyMemberHistory": ("status", "relationship"),
    "Immunization": ("status", "vaccineCode"), "CarePlan": ("status", "intent"),
}  # fmt: skip
"""Elements of cardinality 1 in R4, beside the subject."""
_WORDS = {200: "200 OK", 201: "201 Created"}


@dataclass
class Entry:
    """One resource on its way in. `own`: its logical id; `there`: nothing is written, since a conditional create found it."""

    method: str
    kind: str
    resource: Resource
    full_url: str = ""
    own: str = ""
    if_none_exist: str = ""
    if_match: str = ""
    there: bool = False
    status: int = 201


@dataclass
class Writer:
    """Writes for one caller."""

    shelf: Shelf
    by: str
    names: dict[str, str] = field(default_factory=dict)
    """fullUrl -> Type/id."""

    # Bundles

    def bundle(self, body: Any) -> Resource:
        """A Bundle's response. Raises a Problem for a transaction that can't be taken whole."""
        if not isinstance(body, dict) or body.get("resourceType") != "Bundle" or body.get("type") not in ("transaction", "batch"):
            raise Problem(400, "NotABundle", "a Bundle of type transaction or batch is taken here", "POST single resources to /fhir/Type")  # fmt: skip
        raw = body.get("entry") or []
        if not isinstance(raw, list) or len(raw) > MOST_ENTRIES:
            raise Problem(413, "TooLarge", f"a Bundle holds up to {MOST_ENTRIES} entries", "split it")
        if body["type"] == "batch":
            return {"resourceType": "Bundle", "type": "batch-response", "entry": [self._alone(e) for e in raw]}
        entries = [self.read(e, n) for n, e in enumerate(raw)]
        self.write(entries)
        return {"resourceType": "Bundle", "type": "transaction-response", "entry": [{"response": self._response(e)} for e in entries]}  # fmt: skip

    def _alone(self, raw: Any) -> Resource:
        """One entry of a batch, by itself."""
        try:
            if isinstance(raw, dict) and (raw.get("request") or {}).get("method") == "GET":
                return self._read_entry(str(raw["request"].get("url") or ""))
            one = Writer(self.shelf, self.by)
            entry = one.read(raw, 0)
            one.write([entry])
            return {"response": one._response(entry)}
        except Exception as error:
            told = problem(error)
            return {"response": {"status": str(told["status"]), "outcome": outcome(told)}}

    def _read_entry(self, url: str) -> Resource:
        from serving.api.fhir.search import KINDS, searched

        path, _, query = url.partition("?")
        kind, _, own = path.strip("/").partition("/")
        if kind not in KINDS:
            raise NotFound(f"{kind} isn't given here", "see /fhir/metadata")
        self._may("read", kind)
        resource = self.shelf.get(kind, own) if own else searched(self.shelf, understood(kind, parse_qsl(query), False))
        return {"resource": resource, "response": {"status": "200 OK"}}

    def _may(self, action: str, kind: str) -> None:
        if self.shelf.grant is not None:
            self.shelf.grant.may(action, kind)

    def read(self, raw: Any, number: int) -> Entry:
        """An entry, checked by itself. Raises a Problem that names it by its number."""
        where = f"entry[{number}]"
        request = raw.get("request") if isinstance(raw, dict) else None
        resource = raw.get("resource") if isinstance(raw, dict) else None
        if not isinstance(request, dict) or not isinstance(resource, dict):
            raise Problem(400, "BadEntry", f"{where} lacks request or resource", "give request.method, request.url and resource")
        method, url = str(request.get("method")), str(request.get("url") or "").strip("/")
        kind, _, own = url.partition("/")
        if method not in ("POST", "PUT"):
            raise Problem(400, "NotSupported", f"{where}: {method[:10]} isn't done in a transaction", "POST or PUT")
        if resource.get("resourceType") != kind or (method == "PUT") != bool(own):
            raise Problem(400, "BadEntry", f"{where}: its url and its resource don't go together", "POST Type, or PUT Type/id")
        return checked(Entry(method, kind, dict(resource), str(raw.get("fullUrl") or ""), own, str(request.get("ifNoneExist") or ""),
                             str(request.get("ifMatch") or "")), where)  # fmt: skip

    def _response(self, entry: Entry) -> Resource:
        kept = self._kept(entry)
        meta = kept.get("meta") or {}
        told: Resource = {"status": _WORDS[entry.status], "location": f"{entry.kind}/{entry.own}"}
        if meta.get("versionId"):
            told |= {"location": f"{entry.kind}/{entry.own}/_history/{meta['versionId']}", "etag": f'W/"{meta["versionId"]}"'}
        return {**told, **({"lastModified": meta["lastUpdated"]} if meta.get("lastUpdated") else {})}

    def _kept(self, entry: Entry) -> Resource:
        found = self.shelf.archive.kept_resource(entry.kind, entry.own)
        return found.data if found else {}

    # Writing

    def write(self, entries: list[Entry]) -> str:
        """Take all of `entries`, or none; whose they are. Raises a Problem or a KnowledgeError, with nothing written."""
        for entry in entries:
            self._may("write", entry.kind)
        for entry in entries:
            self._conditional(entry)
        owner = self._name_patient(entries)
        owner = owner or self._owner(entries)
        self._name_others([e for e in entries if not e.own and not e.there], owner)
        writing = [e for e in entries if not e.there]
        for entry in writing:
            if not entry.own:
                entry.own = made_id(entry.resource, owner)
            self._version(entry)
        if not writing:
            return owner
        patient = next((e.resource for e in writing if e.kind == "Patient"), None) or self._patient(owner)
        self._same_person(owner, patient)
        mine = {"reference": f"Patient/{logical_id(owner)}"}
        others = []
        for entry in writing:
            if entry.kind == "Patient":
                continue
            entry.resource["id"] = entry.own
            for name in ("subject", "patient"):
                told = entry.resource.get(name)
                if isinstance(told, dict):
                    if told.get("reference") != mine["reference"] and self._whose(told) != owner:
                        raise Problem(
                            422, "SeveralPatients", f"{entry.kind}'s subject is another patient", "one transaction for each"
                        )
                    entry.resource[name] = {**told, **mine}
            others.append({"resource": entry.resource})
        sent = {
            "resourceType": "Bundle",
            "type": "collection",
            "entry": [{"resource": {**patient, "id": logical_id(owner)}}, *others],
        }
        data = json.dumps(sent, ensure_ascii=False, sort_keys=True).encode()
        done = self.shelf.archive.add(from_bytes("fhir-bundle.json", data), Hints(patient_id=owner), f"{self.by} (FHIR)")
        if done.rejected:
            raise Problem(422, "Refused", done.rejected[0].reason, "")
        return owner

    def _conditional(self, entry: Entry) -> None:
        if not entry.if_none_exist:
            return
        same = self._by_query(entry.kind, entry.if_none_exist)
        if len(same) > 1:
            raise Problem(
                412, "NotUnique", f"{len(same)} resources fit the condition of {entry.kind}", "name one by its identifier"
            )
        if same:
            entry.own, entry.there, entry.status = str(same[0]["id"]), True, 200
            self._remember(entry)

    def _by_query(self, kind: str, query: str) -> list[Resource]:
        asked: Asked = understood(kind, parse_qsl(query.lstrip("?")), strict=True)
        if not asked.filters:
            raise Problem(412, "NoCondition", "a condition without a parameter fits everything", "name an identifier")
        return found(self.shelf, asked)

    def _remember(self, entry: Entry) -> None:
        if entry.full_url:
            self.names[entry.full_url] = f"{entry.kind}/{entry.own}"

    def _name_patient(self, entries: list[Entry]) -> str:
        """The archive's id of the patient that the entries bring, or of none."""
        patients = [e for e in entries if e.kind == "Patient"]
        if len(patients) > 1:
            raise Problem(422, "SeveralPatients", "a transaction is about one patient", "send one for each patient")
        if not patients:
            return ""
        entry = patients[0]
        if entry.there:
            return self.shelf.patient_of(entry.own) or ""
        values = [str(i["value"]) for i in entry.resource.get("identifier") or [] if isinstance(i, dict) and i.get("value")]
        known = self.shelf.patient_of(entry.own) if entry.own else None
        known = known or next((p for v in values if (p := self._known(v)) is not None), None)
        owner = known or entry.own or next(iter(values), "") or made_id(entry.resource)
        if self.shelf.only not in (None, owner):
            raise Problem(403, "Forbidden", "this key is for one patient", "")
        if entry.own and logical_id(owner) != entry.own:  # known here by another id: others may go on with theirs
            listed = [i for i in entry.resource.get("identifier") or [] if isinstance(i, dict)]
            entry.resource["identifier"] = [*listed, {"system": LOGICAL, "value": entry.own}]
            self.names[f"Patient/{entry.own}"] = f"Patient/{logical_id(owner)}"
        entry.own, entry.status = logical_id(owner), 200 if known else 201
        self._remember(entry)
        return owner

    def _known(self, value: str) -> str | None:
        try:
            return self.shelf.archive.patient(value).id
        except NotFound:
            return None

    def _name_others(self, entries: list[Entry], owner: str) -> None:
        """Ids of new resources, made from their content: those that others refer to first."""
        waiting = list(entries)
        while waiting:
            ready = [
                e for e in waiting if not any(u in r for e2 in waiting if (u := e2.full_url) for r in _references(e.resource))
            ]
            for entry in ready or waiting:
                self._rewrite(entry.resource)
                entry.own = made_id(entry.resource, owner)
                self._remember(entry)
            waiting = [e for e in waiting if not e.own]

    def _rewrite(self, node: Any) -> None:
        """References as they are here: of entries of this Bundle, of conditions, of our own base."""
        if isinstance(node, list):
            for one in node:
                self._rewrite(one)
        if not isinstance(node, dict):
            return
        reference = node.get("reference")
        if isinstance(reference, str):
            reference = reference.removeprefix(f"{self.shelf.base}/")
            if found_condition := re.fullmatch(r"([A-Z][A-Za-z]+)\?(.+)", reference):
                same = self._by_query(*found_condition.groups())
                if len(same) != 1:
                    raise Problem(
                        412, "NotUnique", f"{len(same)} resources fit the condition of a reference", "name one by its identifier"
                    )
                reference = f"{same[0]['resourceType']}/{same[0]['id']}"
            node["reference"] = self.names.get(reference, reference)
        for value in node.values():
            self._rewrite(value)

    def _owner(self, entries: list[Entry]) -> str:
        """Whose resources these are that come without their Patient."""
        owners: set[str] = set()
        for entry in entries:
            self._rewrite(entry.resource)
            for name in ("subject", "patient"):
                told = entry.resource.get(name)
                if isinstance(told, dict):
                    owners.add(self._whose(told))
        if len(owners) > 1:
            raise Problem(
                422, "SeveralPatients", "the resources speak of several patients", "send one transaction for each patient"
            )
        if not owners:
            raise Problem(422, "NoPatient", "the resources name no patient", "give them a subject, or send the Patient with them")
        return owners.pop()

    def _whose(self, told: Resource) -> str:
        reference = str(told.get("reference") or "")
        found_patient = self.shelf.patient_of(reference.removeprefix("Patient/")) if reference.startswith("Patient/") else None
        value = (told.get("identifier") or {}).get("value") if isinstance(told.get("identifier"), dict) else None
        found_patient = found_patient or (self._known(str(value)) if value else None)
        if found_patient is None or self.shelf.only not in (None, found_patient):
            raise Problem(
                422, "UnknownPatient", "the subject is no patient that is known here", "send the Patient in the same Bundle"
            )
        return found_patient

    def _version(self, entry: Entry) -> None:
        """Whether this is new, and whether it may be written over."""
        self._rewrite(entry.resource)
        kept = self._kept(entry)
        if not kept and entry.kind != "Patient" and self.shelf.one(entry.kind, entry.own) is not None:
            raise Problem(409, "MadeHere", f"{entry.kind}/{entry.own} is made here and can't be written", "use another id")
        if entry.if_match and entry.if_match != f'W/"{(kept.get("meta") or {}).get("versionId")}"':
            raise Problem(412, "Changed", f"{entry.kind}/{entry.own} was changed since", "read it again")
        if kept:
            entry.status = 200

    def _patient(self, owner: str) -> Resource:
        kept = self.shelf.archive.kept_resource("Patient", logical_id(owner))
        return {k: v for k, v in kept.data.items() if k != "meta"} if kept else {"resourceType": "Patient"}

    def _same_person(self, owner: str, sent: Resource) -> None:
        try:
            known = self.shelf.archive.patient(owner)
        except NotFound:
            return
        born, told = known.birth_date or "", str(sent.get("birthDate") or "")
        if born and told and born[: len(told)] != told[: len(born)]:
            raise Problem(
                409, "AnotherPerson", "the birth dates of the patient here and of the one sent differ", "correct one of them"
            )
        if {known.sex, {"male": "M", "female": "F"}.get(str(sent.get("gender")))} == {"M", "F"}:
            raise Problem(409, "AnotherPerson", "the sexes of the patient here and of the one sent differ", "correct one of them")


def checked(entry: Entry, where: str = "it") -> Entry:
    """Raises a Problem for a resource that can't be taken whatever else comes with it."""
    if entry.kind not in WRITABLE:
        raise Problem(422, "NotSupported", f"{where}: {entry.kind[:40]} isn't taken here", "see /fhir/metadata")
    if entry.own and logical_id(entry.own) != entry.own:
        raise Problem(400, "BadId", f"{where}: the id has other characters than letters, digits, '-' and '.'", "up to 64 of them")
    given = entry.resource.get("id")
    if entry.method == "PUT" and given not in (None, entry.own):
        raise Problem(400, "BadId", f"{where}: the url and the resource have different ids", "make them the same")
    lacking = [n for n in REQUIRED.get(entry.kind, ()) if entry.resource.get(n) in (None, "", [], {})]
    if lacking:
        raise Problem(422, "Required", f"{where}: {entry.kind} lacks {', '.join(lacking)}", "R4 requires it")
    if entry.method == "POST":
        entry.resource.pop("id", None)
    return entry


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for one in node:
            yield from _references(one)
    elif isinstance(node, dict):
        if isinstance(node.get("reference"), str):
            yield node["reference"]
        for value in node.values():
            yield from _references(value)
