"""What DICOM objects without pixels say: structured reports (PS3.3 C.17.3, TID 1500), encapsulated documents, RT structure sets."""

import re
from typing import Any

from pydicom.dataset import Dataset

from knowledge.errors import Refused
from knowledge.evidence import Coding
from knowledge.records import documents
from knowledge.records.model import RecordItem, item_id
from knowledge.studies.placement import iso_date

PDF = "1.2.840.10008.5.1.4.1.1.104.1"
RT_STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
SR_CLASSES = "1.2.840.10008.5.1.4.1.1.88."
MAX_DEPTH = 40

Said = tuple[list[tuple[str, str | None, str]], list[RecordItem], dict[str, Any]]
_SYSTEMS = {"DCM": "http://dicom.nema.org/resources/ontology/DCM", "SCT": "http://snomed.info/sct", "SRT": "SRT",
            "LN": "http://loinc.org", "UCUM": "http://unitsofmeasure.org", "RADLEX": "http://radlex.org"}  # fmt: skip


def said(dataset: Dataset, sop_class: str) -> Said:
    """Texts (title, date, text), values, and what joins the instance's place. Empty for objects that say nothing in words."""
    if sop_class.startswith(SR_CLASSES) and dataset.get("ContentSequence"):
        return _report(dataset)
    if sop_class == PDF:
        return _pdf(dataset)
    if sop_class == RT_STRUCTURES:
        names = {
            int(r.ROINumber): str(r.get("ROIName") or f"ROI {r.ROINumber}") for r in dataset.get("StructureSetROISequence") or []
        }
        return [], [], {"regions": names, "references": _structure_reference(dataset)}
    return [], [], {}


def _structure_reference(dataset: Dataset) -> str | None:
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                return str(series.get("SeriesInstanceUID") or "") or None
    return None


def _day(dataset: Dataset) -> str | None:
    return iso_date(dataset.get("ContentDate") or dataset.get("StudyDate"))


def _pdf(dataset: Dataset) -> Said:
    data = dataset.get("EncapsulatedDocument")
    title = str(dataset.get("DocumentTitle") or "") or "Encapsulated PDF"
    if not data:
        raise Refused("its encapsulated document is empty", "send the original from the PACS")
    try:
        text = documents.text_of("report.pdf", bytes(data))
    except Refused as refusal:
        return [], [], {"doubt": f"its PDF can't be read as text: {refusal}"}
    return [(title, _day(dataset), text)], [], {}


def _report(dataset: Dataset) -> Said:
    title = _meaning(dataset.get("ConceptNameCodeSequence")) or "Structured report"
    day = _day(dataset)
    lines: list[str] = []
    values: list[RecordItem] = []
    _walk(dataset, 0, lines, values, day, str(dataset.get("SOPInstanceUID")), "")
    return [(title, day, f"{title}\n\n" + "\n".join(lines))], values, {}


def _meaning(sequence: Any) -> str:
    return str(sequence[0].get("CodeMeaning") or sequence[0].get("CodeValue") or "") if sequence else ""


def coding(sequence: Any) -> list[Coding]:
    """The first item of a code sequence; none where there is none."""
    if not sequence:
        return []
    one = sequence[0]
    scheme = str(one.get("CodingSchemeDesignator") or "")
    return [Coding(system=_SYSTEMS.get(scheme, scheme), code=str(one.get("CodeValue") or one.get("LongCodeValue") or ""),
                   display=str(one.get("CodeMeaning") or ""))]  # fmt: skip


def _walk(node: Dataset, depth: int, lines: list[str], values: list[RecordItem], day: str | None, uid: str, about: str) -> None:
    """A content tree as lines: containers as headings, each item as `name: value`. Names of people are left out."""
    if depth > MAX_DEPTH:
        raise Refused("its sequences are nested too deep", "send the original from the PACS")
    about = _about(node) or about
    for item in node.get("ContentSequence") or []:
        name, kind = _meaning(item.get("ConceptNameCodeSequence")), str(item.get("ValueType"))
        indent = "  " * max(depth - 1, 0)
        if kind == "CONTAINER":
            heading = name.upper() if depth == 0 else name
            lines += ["", f"{heading}:"] if depth == 0 else [f"{indent}{heading}:"]
            _walk(item, depth + 1, lines, values, day, uid, about)
            continue
        shown = _shown(item, kind)
        if shown:
            lines.append(f"{indent}{name}: {shown}" if name else f"{indent}{shown}")
        if kind == "NUM" and (value := _measured(item, name, day, uid, len(values), about)):
            values.append(value)
        _walk(item, depth + 1, lines, values, day, uid, about)


def _about(node: Dataset) -> str:
    """What a group of measurements is about: its finding and site, or its tracking identifier."""
    found = {_meaning(i.get("ConceptNameCodeSequence")): i for i in node.get("ContentSequence") or []}
    words = [_meaning(found[n].get("ConceptCodeSequence")) for n in ("Finding", "Finding Site", "Laterality") if n in found]
    tracking = str(found["Tracking Identifier"].get("TextValue") or "") if "Tracking Identifier" in found else ""
    return ", ".join(w for w in [*words, tracking] if w)


def _shown(item: Dataset, kind: str) -> str:
    if kind == "TEXT":
        return re.sub(r"[ \t]*[\r\n]+", "\n", str(item.get("TextValue") or "")).strip()
    if kind == "CODE":
        return _meaning(item.get("ConceptCodeSequence"))
    if kind == "NUM":
        return " ".join(v for v in _quantity(item) if v)
    if kind in ("DATE", "TIME", "DATETIME"):
        return str(item.get({"DATE": "Date", "TIME": "Time", "DATETIME": "DateTime"}[kind]) or "")
    return ""


def _quantity(item: Dataset) -> tuple[str, str]:
    measured = (item.get("MeasuredValueSequence") or [None])[0]
    if measured is None:
        return "", ""
    units = measured.get("MeasurementUnitsCodeSequence")
    unit = str(units[0].get("CodeValue") or "") if units else ""
    value = measured.get("NumericValue")
    return ("" if value is None else str(value)), ("" if unit == "1" else unit)


def _measured(item: Dataset, name: str, day: str | None, uid: str, number: int, about: str) -> RecordItem | None:
    text, unit = _quantity(item)
    try:
        value = float(text)
    except ValueError:
        return None
    label = f"{about}: {name}" if about else name
    path = f"ContentSequence NUM[{number}]"
    return RecordItem(
        id=item_id("sr", uid, path, label, text), patient_id="", resource=f"DICOM SR {uid}", path=path, name=label or "value",
        codes=coding(item.get("ConceptNameCodeSequence")), value=value, unit=unit or None, date=day, category="imaging measurement",
    )  # fmt: skip
