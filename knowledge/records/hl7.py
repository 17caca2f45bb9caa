"""Read HL7 v2 messages of one patient: results (ORU), who the patient is (ADT), imaging orders (ORM, OMG, OMI)."""

import logging

import hl7

from knowledge.errors import Refused
from knowledge.evidence import Coding
from knowledge.records.fhir import FhirRecord
from knowledge.records.model import RecordItem, item_id
from knowledge.studies.model import Patient
from knowledge.studies.placement import iso_date

for _part in (hl7.containers, hl7.util):  # what they say of a message quotes the patient in it
    _part.logger.setLevel(logging.CRITICAL)
TEXT_TYPES, NUMBER_TYPES, CODE_TYPES = ("TX", "FT", "ST"), ("NM",), ("CE", "CWE", "CNE")
_SYSTEMS = {"LN": "http://loinc.org", "SCT": "http://snomed.info/sct", "SNM": "http://snomed.info/sct"}


def is_hl7(head: bytes) -> bool:
    """True for a message that starts with its MSH segment (MLLP's start byte allowed)."""
    return head.lstrip(b"\x0b\r\n \xef\xbb\xbf")[:4] in (b"MSH|", b"MSH^", b"MSH~")


ORDERS = ("ORM", "OMG", "OMI")
MERGES = ("A18", "A34", "A35", "A36", "A40", "A41", "A47")
"""Events of ADT that make one patient of two: never done by a message."""


class UnknownMessage(Refused):
    """A message of a type or event that isn't taken. `event`: its type is."""

    def __init__(self, message: str, hint: str, event: bool = False) -> None:
        super().__init__(message, hint)
        self.event = event


class LacksField(Refused):
    """A message without something that it needs."""


def read_messages(data: bytes) -> list[FhirRecord]:
    """One record for each message in `data`. Raises Refused: not taken, no patient, broken."""
    text = _decoded(data).replace("\r\n", "\r").replace("\n", "\r")
    parts = ["MSH" + p.rstrip("\x1c\r\x0b ") + "\r" for p in text.split("MSH")[1:] if p[:1] in "|^~"]
    try:
        return [_record(hl7.parse(p)) for p in parts]
    except (hl7.HL7Exception, LookupError, ValueError, TypeError, AttributeError) as error:
        raise Refused(f"the HL7 message can't be parsed ({type(error).__name__})", "send it as the sender made it") from error


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")  # ISO 8859-1 is what senders mean that state no character set (MSH-18)


def _at(segment: hl7.Segment, field: int, component: int = 1) -> str:
    """Component `component` of the first repetition of `field`; empty where there is none."""
    try:
        repetition = segment[field][0]
        value = repetition[component - 1][0] if not isinstance(repetition, str) else (repetition if component == 1 else "")
    except LookupError:
        return ""
    return str(value).strip()


def _record(message: hl7.Message) -> FhirRecord:
    head = message.segment("MSH")
    kind, event = _at(head, 9, 1), _at(head, 9, 2)
    if kind not in ("ORU", "ADT", *ORDERS):
        raise UnknownMessage(f"an HL7 message of type {kind or 'unknown'} isn't read", "send ORU results, ADT or imaging orders")
    if kind == "ADT" and event in MERGES:
        raise UnknownMessage(
            f"ADT^{event} makes one patient of two, which no message does here", "correct the archive's studies", event=True
        )
    person = message.segment("PID")
    own = _at(person, 3, 1)
    if not own:
        raise LacksField("the message names no patient (PID-3)", "send it with the patient's identifier")
    patient = Patient(id=own, birth_date=iso_date(_at(person, 7)), sex=_at(person, 8)[:1] or None)
    if kind == "ADT":
        return FhirRecord(patient, [own], [], [])
    if kind in ORDERS:
        return FhirRecord(patient, [own], _orders(message), [])
    items: list[RecordItem] = []
    texts: list[tuple[str, str | None, str]] = []
    title, day, lines = "Report", None, list[str]()
    for number, segment in enumerate(message):
        kind = str(segment[0])
        if kind == "OBR":
            _close(texts, title, day, lines)
            lines = []
            title, day = _at(segment, 4, 2) or _at(segment, 4, 1) or "Report", iso_date(_at(segment, 7) or _at(segment, 22))
        elif kind == "OBX":
            _observed(message, segment, number, day, lines, items)
        elif kind == "NTE" and _at(segment, 3):
            lines.append(_plain(message, _at(segment, 3)))
    _close(texts, title, day, lines)
    if not items and not texts:
        raise LacksField("the message holds no result (OBX)", "send ORU^R01 results")
    return FhirRecord(patient, [own], items, texts)


def _orders(message: hl7.Message) -> list[RecordItem]:
    """Each ordered examination (OBR-4) as a value of the record."""
    found = []
    for number, segment in enumerate(message):
        if str(segment[0]) != "OBR":
            continue
        code, words = _at(segment, 4, 1), _at(segment, 4, 2) or _at(segment, 4, 1)
        day = iso_date(_at(segment, 27, 4) or _at(segment, 36) or _at(segment, 7) or _at(segment, 6))
        placer = _at(segment, 2) or _at(segment, 3)
        if words:
            system = _at(segment, 4, 3)
            codes = [Coding(system=_SYSTEMS.get(system, system), code=code, display=words)] if code else []
            found.append(RecordItem(id=item_id("order", placer, code, words, day or ""), patient_id="", resource=f"OBR/{placer or number}", path="OBR-4",
                                    name=f"Order: {words}", codes=codes, value=words, date=day, status="ordered", category="order"))  # fmt: skip
    if not found:
        raise LacksField("the order names no examination (OBR-4)", "send it with OBR-4")
    return found


def _close(texts: list[tuple[str, str | None, str]], title: str, day: str | None, lines: list[str]) -> None:
    if any(line.strip() for line in lines):
        texts.append((title, day, "\n".join(lines).strip()))


def _plain(message: hl7.Message, value: str) -> str:
    """A text with HL7's escapes undone (2.7)."""
    for escape, written in ((r"\.br\ ".strip(), "\n"), (r"\H\ ".strip(), ""), (r"\N\ ".strip(), "")):
        value = value.replace(escape, written)
    return str(message.unescape(value))


def _observed(
    message: hl7.Message, segment: hl7.Segment, number: int, day: str | None, lines: list[str], items: list[RecordItem]
) -> None:
    kind, name = _at(segment, 2), _at(segment, 3, 2) or _at(segment, 3, 1)
    if kind in TEXT_TYPES:
        try:
            repetitions = [_plain(message, str(r)) for r in segment[5]]
        except LookupError:
            repetitions = []
        heading = f"{name.upper()}:" if name and kind == "TX" and not any(line == f"{name.upper()}:" for line in lines) else ""
        lines.extend([heading] if heading else [])
        lines.extend(repetitions)
        return
    value: float | str
    if kind in NUMBER_TYPES:
        try:
            value = float(_at(segment, 5))
        except ValueError:
            return
    elif kind in CODE_TYPES and (_at(segment, 5, 2) or _at(segment, 5, 1)):
        value = _at(segment, 5, 2) or _at(segment, 5, 1)
    else:
        return
    moment = iso_date(_at(segment, 14)) or day
    system = _at(segment, 3, 3)
    items.append(RecordItem(
        id=item_id("hl7", _at(segment, 3, 1), name, str(value), moment or "", str(number)), patient_id="", resource=f"OBX/{number}",
        path="OBX-5", name=name, codes=[Coding(system=_SYSTEMS.get(system, system), code=_at(segment, 3, 1), display=name)], value=value,
        unit=_at(segment, 6) or None, date=moment, status=_at(segment, 11) or None, category="laboratory",
    ))  # fmt: skip
