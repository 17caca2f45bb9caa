"""A signed report as HL7 v2.5.1 ORU^R01: its text by sections, and its PDF."""

import base64
from datetime import UTC, datetime

from knowledge.errors import Refused
from knowledge.reporting.drafts import Draft
from knowledge.reporting.templates import PARTS
from knowledge.studies.model import Patient, Study
from tools.export.report import as_pdf, loinc_of
from tools.reporting.phrases import phrase


def as_oru(draft: Draft, patient: Patient, study: Study | None, accession: str = "", receiver: str = "") -> bytes:
    """UTF-8, segments ended by CR. The same report has the same control id. Raises Refused for a draft that nobody signed."""
    signed = draft.signature
    if signed is None:
        raise Refused("the report isn't signed", "sign it first")
    code, display = loinc_of(draft)
    when = _stamp(signed.at)
    first, _, last = signed.name.rpartition(" ")
    rows = [
        f"MSH|^~\\&|CONSILIUM|CONSILIUM|{_text(receiver)}||{_stamp(datetime.now(UTC).isoformat())}||ORU^R01^ORU_R01|{draft.id[-20:]}|P|2.5.1|||AL|NE||UNICODE UTF-8",
        f"PID|1||{_text(patient.id)}||^||{(patient.birth_date or '').replace('-', '')}|{patient.sex or 'U'}",
        f"OBR|1||{_text(accession or draft.id)}|{code}^{_text(display)}^LN|||{(draft.study_date or '').replace('-', '')}|||||||||||||||{when}||RAD|F|||||||"
        f"&{_text(last)}&{_text(first)}",
    ]
    number = 0
    for part in PARTS:
        for sentence in draft.part(part):
            number += 1
            rows.append(
                f"OBX|{number}|TX|{code}^{_text(phrase(draft.language, part))}^LN||{_text(sentence.text)}||||||F|||{when}"
            )
    pdf = base64.b64encode(as_pdf(draft, patient, study)).decode()
    rows.append(f"OBX|{number + 1}|ED|PDF^{_text(draft.title)}^L||CONSILIUM^application^pdf^Base64^{pdf}||||||F|||{when}")
    rows.append(f"NTE|1||{_text('Drafted by research software (not a medical device), signed by ' + signed.name)}")
    return ("\r".join(rows) + "\r").encode()


def _stamp(at: str) -> str:
    """An RFC 3339 time as HL7 writes it, in UTC."""
    return "".join(c for c in at[:19] if c.isdigit()) + "+0000"


def _text(value: str) -> str:
    """A text with HL7's own characters escaped (2.7)."""
    for plain, escape in (("\\", "\\E\\"), ("|", "\\F\\"), ("^", "\\S\\"), ("&", "\\T\\"), ("~", "\\R\\")):
        value = value.replace(plain, escape)
    return value.replace("\r", " ").replace("\n", "\\.br\\")
