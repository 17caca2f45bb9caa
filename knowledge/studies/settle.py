"""Work out the series of what came in: parts, geometry, which series it is; written beside the instances."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from knowledge.errors import NotFound, Refused
from knowledge.studies import dicom, pixels, seen
from knowledge.studies.keeper import short
from knowledge.studies.placement import frames_of
from knowledge.studies.stacks import Part, arrange
from knowledge.studies.store import InstanceRow, Objects, SeriesRow, StudyRow
from knowledge.studies.volume import Volume
from knowledge.studies.which import which

_EMPTY = np.zeros((1, 1, 1))
_OVERRIDES = {"echo": "EchoTime", "inversion": "InversionTime", "b": "DiffusionBValue"}


class Settler:
    """Lays out the series of an upload."""

    def __init__(self, session: Session, objects: Objects, undecodable: Mapping[str, str]) -> None:
        self.session, self.objects, self.undecodable = session, objects, undecodable
        self.stale: set[str] = set()
        """Series whose slices changed, or that are no more: what was made from them doesn't fit any longer."""

    def series(self, study_id: str, uid: str, sample: dicom.Instance) -> None:
        """Lay out one DICOM series of a study anew."""
        query = select(InstanceRow).where(
            InstanceRow.study_id == study_id, InstanceRow.series_uid == uid, InstanceRow.variant >= 0
        )
        rows = list(self.session.scalars(query.order_by(InstanceRow.sop_uid, InstanceRow.variant)))
        there = {
            r.part: r for r in self.session.scalars(select(SeriesRow).where(SeriesRow.study_id == study_id, SeriesRow.uid == uid))
        }
        header = sample.header or next((r.header for r in there.values()), {})
        wanted: set[str] = set()
        for variant in sorted({r.variant for r in rows}):
            mine = [r for r in rows if r.variant == variant]
            for part in _parts(mine):
                key = part.key if variant == 0 else f"other content {variant} {part.key}".strip()
                wanted.add(key)
                row = there.get(key) or self._row(study_id, uid, key, sample, header)
                self._lay_out(row, part, mine, sample, header, variant)
        for key, row in there.items():
            if key not in wanted:
                self.stale.add(row.id)
                self.session.delete(row)
        self.session.flush()

    def _row(self, study_id: str, uid: str, key: str, sample: dicom.Instance, header: dict[str, Any]) -> SeriesRow:
        known = self.session.scalar(select(func.count()).where(SeriesRow.uid == uid, SeriesRow.study_id != study_id)) or 0
        name = short("se", uid, *([study_id] if known else []), *([key] if key else []))
        number = (self.session.scalar(select(func.max(SeriesRow.number)).where(SeriesRow.study_id == study_id)) or 0) + 1
        row = SeriesRow(id=name, study_id=study_id, number=number, uid=uid, part=key, format="DICOM", modality=sample.modality,
                        description="", sequence=None, body_part="", header=header, layout={}, which={}, frames=[], instances=0,
                        settled=False)  # fmt: skip
        self.session.add(row)
        self.session.flush()
        return row

    def _lay_out(self, row: SeriesRow, part: Part, rows: list[InstanceRow], sample: dicom.Instance, header: dict[str, Any],
                 variant: int) -> None:  # fmt: skip
        slots = [None if s is None else [rows[s[0]].id, s[1]] for s in part.order]
        used = {rows[s[0]].id: rows[s[0]] for s in part.order if s} or {r.id: r for r in rows}
        first = next(iter(used.values())).place
        words = first.get("segments", {}).get(str(part.values.get("segment")), part.words)
        own = {**header, **{k: part.values[n] for n, k in _OVERRIDES.items() if n in part.values}}
        found = which(
            sample.modality,
            f"{sample.series_description} {header.get('ProtocolName', '')}",
            own,
            sample.body_part,
            _orientation(used, part),
        )
        body, reasons = found.body_part, list(found.reasons)
        if sample.modality == "CT" and not body and part.affine is not None and (shown := self._body_part(part, rows)):
            body = shown
            reasons.append(f"body part {shown}: by the image")
        row.description = ", ".join(w for w in (sample.series_description, words) if w)
        row.sequence, row.body_part, row.header, row.modality = found.sequence, body, own, sample.modality
        row.which = {"plane": found.plane, "phase": found.phase, "contrast": found.contrast, "reasons": reasons}
        row.layout = {"shape": list(part.shape) if first["frames"] else [], "spacing_mm": _spacing(part), "unit": _unit(sample, used.values()),
                      "affine": None if part.affine is None else part.affine.tolist(),
                      "pixel_mm": list(part.pixel_mm) if part.pixel_mm else None, **_segment(part),
                      "warnings": self._warnings(part, used.values(), sample, variant)}  # fmt: skip
        if row.frames and row.frames != slots:
            self.stale.add(row.id)
        row.frames, row.instances, row.settled = slots, len(used), True

    def _warnings(self, part: Part, rows: Any, sample: dicom.Instance, variant: int) -> list[str]:
        warnings = list(part.warnings)
        places = [r.place for r in rows]
        if not all(p["uids"] for p in places):
            warnings.append("UIDs are missing in the files: instances were grouped by description and size")
        warnings += list(dict.fromkeys(p["doubt"] for p in places if p.get("doubt")))
        reasons = {p["suv_reason"] for p in places if p.get("suv_reason")}
        warnings += [f"no standardised uptake values: {r}" for r in sorted(reasons)]
        if variant:
            warnings.append("its SOP Instance UIDs are also those of other pictures in this study: two files claim each")
        if reason := self.undecodable.get(sample.series_uid):
            warnings.append(reason)
        if places[0].get("regions"):
            names = ", ".join(str(n) for n in list(places[0]["regions"].values())[:12])
            warnings.append(f"contours, not an image: {names}")
        elif places[0].get("object"):
            warnings.append(f"no image: {places[0]['object']}, kept as it came")
        return warnings

    def _body_part(self, part: Part, rows: Sequence[InstanceRow]) -> str | None:
        step = max(1, len(part.order) // 24)
        some = part.order[::step]
        affine = np.array(part.affine)
        affine[:3, 2] *= step
        try:
            array = pixels.load([self.objects.path(r.sha256) for r in rows], [r.place for r in rows], some).array
        except (Refused, NotFound):
            return None
        return seen.body_part_in_ct(Volume(array.transpose(2, 1, 0), affine))

    def study(self, study_id: str) -> None:
        """What a study is filtered by."""
        row = self.session.get_one(StudyRow, study_id)
        found = self.session.scalars(select(SeriesRow.modality).where(SeriesRow.study_id == study_id).order_by(SeriesRow.number))
        row.modalities = "|" + "|".join(dict.fromkeys(found)) + "|"


def _orientation(used: Mapping[int, InstanceRow], part: Part) -> list[float] | None:
    """Direction cosines of the part's first slice."""
    slot = next((s for s in part.order if s), None)
    if slot is None:
        return None
    frames = list(frames_of(next(iter(used.values())).place))
    turn: list[float] | None = frames[slot[1]]["orientation"]
    return turn


def _parts(rows: list[InstanceRow]) -> list[Part]:
    """The parts of images; objects without frames make one part without slices."""
    if not any(r.place["frames"] for r in rows):
        return [Part("", "", [], (0, 0, 0), None, [])]
    return arrange([r.place for r in rows])


def _segment(part: Part) -> dict[str, int]:
    """The number of the segment that a part of a DICOM SEG is."""
    number = part.values.get("segment")
    return {"segment": int(str(number))} if str(number).isdigit() else {}


def _spacing(part: Part) -> list[float] | None:
    return None if part.affine is None else [round(s, 4) for s in Volume(_EMPTY, part.affine).spacing_mm]


def _unit(sample: dicom.Instance, rows: Any) -> str:
    places = [r.place for r in rows]
    if places and places[0].get("unit"):
        return str(places[0]["unit"])
    if sample.modality == "CT":
        return str(sample.header.get("RescaleType") or "HU") if sample.header.get("RescaleType") != "US" else ""
    if sample.modality == "PT":
        return "g/mL" if all(p.get("suv") for p in places) else str(sample.header.get("Units") or "")
    return ""


def undecodable(instances: Iterable[tuple[str, str, Mapping[str, Any]]], path: Any) -> dict[str, str]:
    """Series whose middle frame can't be decoded, and why; of instances (series UID, SHA-256, place). One frame of each compressed series is tried."""
    from knowledge.studies import workers

    found: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for uid, sha, place in instances:
        if place.get("frames") and not place["pixels"]:
            found.setdefault(uid, []).append((sha, place))
    names, tasks = [], []
    for uid, members in found.items():
        sha, place = members[len(members) // 2]
        names.append(uid)
        tasks.append((str(path(sha)), place, [place["frames"] // 2]))
    results: dict[str, str] = {}
    for uid, task in zip(names, tasks, strict=True):
        try:
            outcome = workers.run(pixels.decode, task)
        except Refused as refusal:
            outcome = refusal
        if isinstance(outcome, Refused):
            results[uid] = str(outcome)
    return results


def settle_old(session: Session, objects: Objects) -> None:
    """Lay out every series that isn't: its instances are read again. What can't be read keeps its rows, with the reason."""
    settler = Settler(session, objects, {})
    for row in list(session.scalars(select(SeriesRow).where(SeriesRow.settled.is_(False)))):
        mine = select(InstanceRow).where(InstanceRow.study_id == row.study_id, InstanceRow.series_uid == row.uid)
        instances = list(session.scalars(mine))
        try:
            if row.format == "DICOM":
                read = [dicom.read_instance(objects.get(i.sha256)) for i in instances]
                for instance, found in zip(instances, read, strict=True):
                    instance.place, instance.sop_class = found.place, found.sop_class
                session.flush()
                settler.series(row.study_id, row.uid, read[0])
            else:
                row.frames, row.instances = [[instances[0].id, 0]], 1
        except (Refused, NotFound, LookupError) as error:
            row.layout = {**row.layout, "warnings": [*row.layout.get("warnings", []), f"its originals can't be read: {error}"]}
        row.settled = True
        session.flush()
        settler.study(row.study_id)
