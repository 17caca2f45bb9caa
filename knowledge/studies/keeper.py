"""Write one upload into the archive's tables: whose files they are, and which study they belong to.

Two people with one ID, one study UID under two people, one SOP Instance UID with two contents: kept apart, and said.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from knowledge.database import batches
from knowledge.evidence import Frozen
from knowledge.records.fhir import FhirRecord
from knowledge.records.model import Record, RecordItem
from knowledge.studies import dicom, intake, resources, tags
from knowledge.studies.model import Patient
from knowledge.studies.store import COPY, BundleRow, InstanceRow, ItemRow, Objects, PatientRow, ReportRow, SeriesRow, StudyRow

MANY = 500
"""Files of an upload that are enough to tell whose it is."""


class Conflict(Frozen):
    """Files that contradict each other or the archive: what was done about it."""

    file: str
    reason: str


class Ask(Frozen):
    """What a file doesn't say of itself, and the caller didn't: to be said by sending it again with these fields, or by PATCH."""

    file: str
    missing: list[str]
    study_id: str | None
    hint: str


def short(prefix: str, *parts: str) -> str:
    """A stable short name made from `parts`."""
    return f"{prefix}_{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:12]}"


class Keeper:
    """One upload being written."""

    def __init__(self, session: Session, objects: Objects, hints: intake.Hints, parsed: list[intake.Parsed]) -> None:
        self.session, self.objects, self.hints = session, objects, hints
        self.studies: dict[str, None] = {}
        self.records: dict[str, Record] = {}
        self.conflicts: list[Conflict] = []
        self.asks: list[Ask] = []
        self.touched: dict[tuple[str, str], dicom.Instance] = {}
        self.digest = short("", *sorted(p.sha256 for p in parsed))
        self.named = hints.patient_id or self._only_patient(parsed) or self._known(parsed)
        nameless = {p.instance.study_uid for p in parsed if p.instance and not p.instance.patient.id}
        self.one_nameless = len(nameless) == 1  # several nameless studies may be of several people: they stay apart
        self.folders = {intake.folder_of(p.name) for p in parsed if p.grid or p.text}
        self._persons: dict[Patient, str] = {}
        self._study_rows: dict[tuple[str, str], StudyRow] = {}
        self._there = self._instances_there(p.instance.sop_instance_uid for p in parsed if p.instance)

    def _instances_there(self, uids: Iterable[str]) -> dict[tuple[str, str], list[tuple[str, int]]]:
        """(sha256, variant) of what the archive has, by study and SOP Instance UID."""
        found: dict[tuple[str, str], list[tuple[str, int]]] = {}
        wanted = list(dict.fromkeys(uids))
        for some in batches(wanted):
            query = select(InstanceRow.study_id, InstanceRow.sop_uid, InstanceRow.sha256, InstanceRow.variant)
            for study, sop, sha, variant in self.session.execute(query.where(InstanceRow.sop_uid.in_(some))):
                found.setdefault((study, sop), []).append((sha, variant))
        return found

    def _only_patient(self, parsed: list[intake.Parsed]) -> str | None:
        named = {p.instance.patient.id for p in parsed if p.instance} | {p.record.patient.id for p in parsed if p.record}
        named.discard("")
        return named.pop() if len(named) == 1 else None

    def _known(self, parsed: list[intake.Parsed]) -> str | None:
        """The patient whom the archive already has one of these files for."""
        shas = [p.sha256 for p in parsed if p.grid][:MANY]
        query = (
            select(StudyRow.patient_id).join(InstanceRow, InstanceRow.study_id == StudyRow.id).where(InstanceRow.sha256.in_(shas))
        )
        return self.session.scalar(query.limit(1)) if shas else None

    # Whose

    def _owner(self, name: str) -> str:
        """The patient of a file that names none. Files of several folders may be of several people: they stay apart."""
        if self.named:
            return self.named
        if len(self.folders) < 2:
            return f"P{self.digest}"
        return f"P{short('', self.digest, intake.folder_of(name))}"

    def _made_for(self, study_uid: str) -> str | None:
        """The patient who was made up for earlier files of a study that names none: its next ones are of the same."""
        query = select(PatientRow.id).join(StudyRow, StudyRow.patient_id == PatientRow.id)
        return self.session.scalar(query.where(StudyRow.uid == study_uid, PatientRow.made.is_(True)).limit(1))

    def person(self, file: str, patient: Patient, made: bool = False) -> str:
        """The archive's id of a patient, made where it is new. Another person with the same ID gets one of their own."""
        if patient in self._persons:
            return self._persons[patient]
        known = list(
            self.session.scalars(select(PatientRow).where((PatientRow.id == patient.id) | (PatientRow.shared_id == patient.id)))
        )
        row = next((r for r in known if not _differ(r, patient)), None)
        if row is None:
            own = patient.id
            if known:
                own = f"{patient.id}~{short('', patient.birth_date or '', patient.sex or '', *sorted(_words(patient.name)), patient.issuer)[1:7]}"
                why = _differ(known[0], patient)
                self.conflicts.append(
                    Conflict(file=file, reason=f"PatientID {patient.id} is that of another person ({why}): kept apart as {own}")
                )
            row = PatientRow(id=own, birth_date=patient.birth_date, sex=patient.sex, name=patient.name, issuer=patient.issuer,
                             shared_id=patient.id if known else "", made=made)  # fmt: skip
            self.session.add(row)
            self.session.flush()
        row.birth_date, row.sex = row.birth_date or patient.birth_date, row.sex or patient.sex
        row.name, row.issuer = row.name or patient.name, row.issuer or patient.issuer
        self._persons[patient] = row.id
        return row.id

    # What

    def keep(self, one: intake.Parsed) -> None:
        """Write one file's rows."""
        if one.instance:
            self._keep_instance(one, one.instance)
        elif one.grid:
            self._keep_grid(one, one.grid)
        elif one.record:
            self._keep_record(one, one.record)
        elif one.text:
            owner = self._owner(one.name)
            self.person(one.name, Patient(id=owner), made=self.named is None)
            self._keep_text(one, owner, one.text.title, one.text.date, one.text.text, one.text.note)
            self._ask(one.name, [] if one.text.date else ["study_date"], None)

    def _ask(self, file: str, missing: list[str], study_id: str | None) -> None:
        missing = ([] if self.named else ["patient_id"]) + missing
        if missing:
            how = f"PATCH /v1/studies/{study_id} with them, or send" if study_id else "send"
            self.asks.append(Ask(file=file, missing=missing, study_id=study_id, hint=f"{how} the file again with them"))

    def _keep_instance(self, one: intake.Parsed, instance: dicom.Instance) -> None:
        name = instance.patient.id or self.hints.patient_id
        made = not name and not self.named
        name = name or self._made_for(instance.study_uid)
        name = name or (self._owner(one.name) if self.one_nameless else short("anon", instance.study_uid))
        patient_id = self.person(one.name, instance.patient.model_copy(update={"id": name}), made)
        study = self._study(one.name, instance.study_uid, patient_id, instance.study_date, instance.study_description, "DICOM")
        there = self._there.setdefault((study.id, instance.sop_instance_uid), [])
        self.touched.setdefault((study.id, instance.series_uid), instance)
        if any(sha == one.sha256 for sha, _ in there):
            return
        variant = self._variant(one, there)
        there.append((one.sha256, variant))
        self.session.add(InstanceRow(study_id=study.id, series_uid=instance.series_uid, sop_uid=instance.sop_instance_uid,
                                     sop_class=instance.sop_class, sha256=one.sha256, name=one.name, place=instance.place,
                                     variant=variant))  # fmt: skip
        if instance.header and not self.touched[study.id, instance.series_uid].header:
            self.touched[study.id, instance.series_uid] = instance
        if instance.series_tags:
            tags.keep(self.session, study, instance.series_uid, instance.study_tags, instance.series_tags)
        for title, date, text in instance.texts:
            self._keep_text(one, patient_id, title, date, text, "", study.id)
        if instance.values:
            title = instance.series_description or "DICOM SR"
            self._keep_items(patient_id, title, one.sha256, instance.values, study.id)
        if made:
            self._ask(one.name, [], study.id)

    def _variant(self, one: intake.Parsed, there: list[tuple[str, int]]) -> int:
        """Which of the files with its SOP Instance UID this is: the first, a copy with another header, or other content."""
        if not there:
            return 0
        first = next(sha for sha, variant in there if variant == 0)
        if dicom.same_picture(self.objects.get(first), self.objects.get(one.sha256)):
            self.conflicts.append(Conflict(file=one.name, reason="the same picture with another header is here already: both are kept, "
                                           "the first is used"))  # fmt: skip
            return COPY
        self.conflicts.append(Conflict(file=one.name, reason="another file with the same SOP Instance UID but other content is here: "
                                       "kept apart as a series of its own"))  # fmt: skip
        return 1 + max(variant for _, variant in there)

    def _keep_grid(self, one: intake.Parsed, grid: intake.Grid) -> None:
        owner = self._owner(one.name)
        self._adopt(one.sha256, owner)
        patient_id = self.person(one.name, Patient(id=owner), made=self.named is None)
        mine = select(StudyRow.id).where(StudyRow.patient_id == patient_id, StudyRow.format != "DICOM")
        old = self.session.scalar(select(InstanceRow).where(InstanceRow.sha256 == one.sha256, InstanceRow.study_id.in_(mine)))
        if old is not None:
            self.studies[old.study_id] = None
            return
        kind = "picture" if grid.format == "picture" else "NIfTI"
        parts = [intake.folder_of(one.name)] if len(self.folders) > 1 else []
        uid = dicom.made_uid(patient_id, self.hints.study_date or self.digest, kind, *parts)
        study = self._study(one.name, uid, patient_id, self.hints.study_date, "", grid.format)
        series_uid = dicom.made_uid(patient_id, one.sha256)
        row = InstanceRow(study_id=study.id, series_uid=series_uid, sop_uid=series_uid + ".1", sop_class="", sha256=one.sha256,
                          companion=one.companion, name=one.name, place=one.place)  # fmt: skip
        self.session.add(row)
        self.session.flush()
        number = self._next(SeriesRow, SeriesRow.study_id == study.id)
        for index, layout in enumerate(grid.layouts):
            words = f", volume {index + 1} of {len(grid.layouts)}" if len(grid.layouts) > 1 else ""
            self.session.add(SeriesRow(
                id=short("se", series_uid, *([str(index)] if index else [])), study_id=study.id, number=number + index, uid=series_uid,
                part=f"volume {index + 1}" if index else "", format=grid.format, modality=grid.modality,
                description=grid.description + words, sequence=grid.sequence, body_part=grid.body_part, header=grid.header, layout=layout,
                which=grid.which, frames=[[row.id, index]], instances=1, settled=True))  # fmt: skip
        self._ask(one.name, ([] if self.hints.study_date else ["study_date"]) + list(grid.asks), study.id)

    def _adopt(self, sha256: str, owner: str) -> None:
        """A file that came before without a patient, and now comes with one: what was made for it becomes this patient's."""
        if not self.hints.patient_id:
            return
        query = (
            select(StudyRow.patient_id).join(InstanceRow, InstanceRow.study_id == StudyRow.id).where(InstanceRow.sha256 == sha256)
        )
        for old in set(self.session.scalars(query)) - {owner}:
            row = self.session.get(PatientRow, old)
            if row is not None and row.made:
                self.move(row, owner)

    def move(self, made: PatientRow, owner: str) -> None:
        """Everything of a patient who was made up for nameless files becomes `owner`'s."""
        self.person("", Patient(id=owner))
        for study in self.session.scalars(select(StudyRow).where(StudyRow.patient_id == made.id)):
            study.number, study.patient_id = self._next(StudyRow, StudyRow.patient_id == owner), owner
            self.session.flush()
        for report in self.session.scalars(select(ReportRow).where(ReportRow.patient_id == made.id)):
            report.number, report.patient_id = self._next(ReportRow, ReportRow.patient_id == owner), owner
            self.session.flush()
        for bundle in self.session.scalars(select(BundleRow).where(BundleRow.patient_id == made.id)):
            bundle.patient_id = owner
        for resource in self.session.scalars(select(resources.ResourceRow).where(resources.ResourceRow.patient_id == made.id)):
            resource.patient_id = owner
        for item in self.session.scalars(select(ItemRow).where(ItemRow.patient_id == made.id)):
            item.patient_id, item.data = owner, {**item.data, "patient_id": owner}
        self.session.flush()
        self.session.delete(made)
        self.session.flush()

    def _study(self, file: str, uid: str, patient_id: str, date: str | None, description: str, format: str) -> StudyRow:
        row = self._study_rows.get((uid, patient_id))
        if row is None:
            known = list(self.session.scalars(select(StudyRow).where(StudyRow.uid == uid)))
            row = next((r for r in known if r.patient_id == patient_id), None)
            if row is None:
                if known:
                    self.conflicts.append(
                        Conflict(file=file, reason="its Study Instance UID is that of another patient's study: kept apart")
                    )
                study_id = short("st", uid, *([patient_id] if known else []))
                row = StudyRow(id=study_id, patient_id=patient_id, uid=uid, date=date, description=description,
                               number=self._next(StudyRow, StudyRow.patient_id == patient_id), format=format, note="")  # fmt: skip
                self.session.add(row)
                self.session.flush()
                tags.revive(self.session, uid)
            self._study_rows[uid, patient_id] = row
        self.studies[row.id] = None
        return row

    def _next(self, table: type[StudyRow] | type[SeriesRow] | type[ReportRow], mine: object) -> int:
        return (self.session.scalar(select(func.max(table.number)).where(mine)) or 0) + 1  # type: ignore[arg-type]

    def _keep_record(self, one: intake.Parsed, record: FhirRecord) -> None:
        owner = self.hints.patient_id or self._by_identifier(record.identifiers) or record.patient.id or self._owner(one.name)
        patient_id = self.person(
            one.name, record.patient.model_copy(update={"id": owner}), made=not record.patient.id and not self.named
        )
        changed = resources.keep(self.session, patient_id, short("rc", patient_id, one.sha256), record.resources)
        bundle_id = self._keep_items(patient_id, one.name, one.sha256, record.items, None, changed)
        for title, date, text in record.texts:
            self._keep_text(one, patient_id, title, date, text, "")
        self.records[bundle_id] = Record(id=bundle_id, kind="fhir", title=one.name, date=None, patient_id=patient_id,
                                         items=len(record.items))  # fmt: skip

    def _keep_items(self, patient_id: str, title: str, sha: str, items: list[RecordItem], study_id: str | None,
                    changed: bool = False) -> str:  # fmt: skip
        bundle_id = short("rc", patient_id, sha)
        known = self.session.get(BundleRow, bundle_id) is not None
        if not known:
            self.session.add(BundleRow(id=bundle_id, patient_id=patient_id, study_id=study_id, title=title, sha256=sha, items=len(items),
                                       note=""))  # fmt: skip
            self.session.flush()
        if changed or not known:
            made = {i: item.model_copy(update={"patient_id": patient_id, "id": i}) for item in items
                    if (i := short("ri", patient_id, item.id))}  # fmt: skip
            for some in batches(list(made)):
                there = set(self.session.scalars(select(ItemRow.id).where(ItemRow.id.in_(some))))
                self.session.add_all(ItemRow(id=i, patient_id=patient_id, bundle_id=bundle_id, data=made[i].model_dump(mode="json"))
                                     for i in some if i not in there)  # fmt: skip
        return bundle_id

    def _by_identifier(self, identifiers: list[str]) -> str | None:
        return next((i for i in identifiers if self.session.get(PatientRow, i) is not None), None)

    def _keep_text(self, one: intake.Parsed, patient_id: str, title: str, date: str | None, text: str, note: str,
                   study_id: str | None = None) -> None:  # fmt: skip
        report_id = short("rp", patient_id, hashlib.sha256(text.encode()).hexdigest())
        if self.session.get(ReportRow, report_id) is None:
            number = self._next(ReportRow, ReportRow.patient_id == patient_id)
            self.session.add(ReportRow(id=report_id, patient_id=patient_id, study_id=study_id, number=number, title=title, date=date,
                                       text=text, sha256=one.sha256, note=note))  # fmt: skip
            self.session.flush()
        self.records[report_id] = Record(id=report_id, kind="report", title=title, date=date, patient_id=patient_id)


def _words(name: str) -> set[str]:
    """The words of a name, folded: order, case, accents and punctuation don't make another person."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode() or name
    return {w for w in re.split(r"[^\w]+", plain.lower()) if len(w) > 1}


def _differ(row: PatientRow, patient: Patient) -> str:
    """Why these are two people, or an empty string. What one of them doesn't say doesn't set them apart."""
    born = [d for d in (row.birth_date, patient.birth_date) if d]
    if len(born) == 2 and born[0][: len(born[1])] != born[1][: len(born[0])]:  # FHIR may state the year or the month alone
        return "the birth dates differ"
    if {row.sex, patient.sex} == {"M", "F"}:
        return "the sexes differ"
    mine, theirs = _words(row.name), _words(patient.name)
    if mine and theirs and not mine & theirs:
        return "the names differ"
    if row.issuer and patient.issuer and row.issuer != patient.issuer:
        return "the ID's issuers differ"
    return ""
