"""De-identify a data set: each attribute by the profile, sequences within, free text scrubbed of who it is about."""

import re
from collections.abc import Iterator
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID

from knowledge.studies.deidentify.profile import SAFE_PRIVATE, Option, action, method_codes
from knowledge.studies.deidentify.vault import Vault

DUMMIES = {"DA": "19000101", "DT": "19000101000000", "TM": "000000", "PN": "ANONYMOUS", "AS": "000Y", "DS": "0", "IS": "0", "CS": "ANON",
           "LO": "ANONYMIZED", "SH": "ANONYMIZED", "ST": "ANONYMIZED", "LT": "ANONYMIZED", "UT": "ANONYMIZED", "UC": "ANONYMIZED",
           "AE": "ANONYMIZED", "UR": "", "US": 0, "UL": 0, "SS": 0, "SL": 0, "FL": 0.0, "FD": 0.0, "OB": b"\0\0", "OW": b"\0\0", "UN": b""}  # fmt: skip
TEXTS = {"LO", "SH", "ST", "LT", "UT", "UC", "PN"}
_WORD = re.compile(r"[^\W_]{2,}")
# What free text may not keep, whoever it is about: days, long numbers, titles with the name after them.
_TELLING = re.compile(
    r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}|\b\d{4,}\b|\b(?:Dr|Prof|Mr|Mrs|Ms|Herr|Frau)\b\.?\s*(?:[A-Z][\w'-]+\s*){0,3}|\S+@\S+"
)
UID_ROOT = "1.2.840.10008."
"""UIDs of the standard itself (SOP classes, transfer syntaxes) are no identifiers."""


def deidentify(dataset: Dataset, options: frozenset[Option], vault: Vault) -> Dataset:
    """`dataset` changed in place by the profile with `options`; what was done is stated in it (PS3.15 E.1.1 and E.3).

    Pixels are another matter: see `burned` and `faces`.
    """
    person = str(dataset.get("PatientID") or "")
    names = set(_identifying(dataset))
    _through(dataset, _Rules(options, vault, person, names))
    dataset.PatientID = vault.patient(person) if person else ""
    dataset.PatientName = dataset.PatientID
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "Consilium: DICOM PS3.15 E"
    dataset.DeidentificationMethodCodeSequence = [_coded(c) for c in method_codes(options)]
    dates = "UNMODIFIED" if Option.FULL_DATES in options else "MODIFIED" if Option.MODIFIED_DATES in options else "REMOVED"
    dataset.LongitudinalTemporalInformationModified = dates
    if getattr(dataset, "file_meta", None) is not None:
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID") or ""
        for keyword in ("SourceApplicationEntityTitle", "SendingApplicationEntityTitle", "ReceivingApplicationEntityTitle",
                        "PrivateInformation", "PrivateInformationCreatorUID"):  # fmt: skip
            if keyword in dataset.file_meta:
                del dataset.file_meta[keyword]
        dataset.preamble = b"\0" * 128
    return dataset


class _Rules:
    def __init__(self, options: frozenset[Option], vault: Vault, person: str, names: set[str]) -> None:
        self.options, self.vault, self.person, self.names = options, vault, person, names

    def cleaned(self, text: str) -> str:
        """Free text without the words that name the patient, staff or place, without days and long numbers."""
        text = _TELLING.sub(" ", text)
        return re.sub(r"\s{2,}", " ", _WORD.sub(lambda m: "" if m.group().lower() in self.names else m.group(), text)).strip(
            " ^-_,;"
        )


_NAMING = ("PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName",
           "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy",
           "RequestingPhysician", "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "AccessionNumber",
           "StudyID", "PatientAddress", "PatientTelephoneNumbers", "ResponsiblePerson", "ResponsibleOrganization")  # fmt: skip
_COMMON = {"the", "of", "and", "for", "dr", "hospital", "clinic", "center", "centre", "medical", "university", "department", "radiology",
           "imaging", "mr", "ct", "us", "scanner", "general"}  # fmt: skip


def _identifying(dataset: Dataset) -> Iterator[str]:
    for keyword in _NAMING:
        value = dataset.get(keyword)
        for one in value if isinstance(value, list | tuple) or hasattr(value, "append") else [value]:
            if one is not None:
                yield from (w.lower() for w in _WORD.findall(str(one)) if w.lower() not in _COMMON)


def identifying_words(dataset: Dataset) -> set[str]:
    """Words (lower case) of names, identifiers and places in a header."""
    return set(_identifying(dataset))


def _through(dataset: Dataset, rules: _Rules) -> None:
    for element in [*dataset]:
        tag = int(element.tag)
        what = action(tag, rules.options)
        if what == "P":
            if not (Option.SAFE_PRIVATE in rules.options and _safe(dataset, element)):
                del dataset[element.tag]
        elif what == "X":
            del dataset[element.tag]
        elif what == "Z":
            element.value = DicomSequence() if element.VR == "SQ" else None
        elif what == "D":
            _dummy(element, rules)
        elif what == "U":
            _new_uid(element, rules)
        elif what == "C":
            _clean(dataset, element, rules)
        elif element.VR == "SQ":
            _within(element, rules)
        elif element.VR == "PN":  # a name that the table doesn't know of is a name all the same
            element.value = None


def _within(element: DataElement, rules: _Rules) -> None:
    for item in element.value or []:
        _through(item, rules)


def _safe(dataset: Dataset, element: DataElement) -> bool:
    """True for a private element of the safe list, and for the creator of a block that holds one."""
    tag = element.tag
    if tag.is_private_creator:
        return str(element.value) in SAFE_PRIVATE
    creator = dataset.get((tag.group, tag.element >> 8))
    known = SAFE_PRIVATE.get(str(creator.value), ()) if creator is not None else ()
    return (tag.group, tag.element & 0xFF) in known and element.VR not in TEXTS | {"SQ"}


def _dummy(element: DataElement, rules: _Rules) -> None:
    if element.VR == "SQ":
        _within(element, rules)
    elif element.VR == "UI":
        _new_uid(element, rules)
    elif element.keyword in ("StudyID", "AccessionNumber"):
        element.value = rules.vault.number(str(element.value))
    else:
        element.value = DUMMIES.get(element.VR, "")


def _new_uid(element: DataElement, rules: _Rules) -> None:
    if element.VR == "SQ":
        _within(element, rules)
        return
    value = element.value
    if not value:
        return
    several = [value] if isinstance(value, str) else list(value)
    made = [UID(v if str(v).startswith(UID_ROOT) else rules.vault.uid(str(v))) for v in several]
    element.value = made if len(made) > 1 else made[0]


def _clean(dataset: Dataset, element: DataElement, rules: _Rules) -> None:
    if element.VR == "SQ":
        _within(element, rules)
    elif element.VR in ("DA", "DT"):
        several = element.value if hasattr(element.value, "append") else [element.value]
        moved = [rules.vault.shifted(rules.person, str(v)) for v in several if v]
        element.value = (moved if len(moved) > 1 else moved[0]) if any(moved) else None
    elif element.VR == "TM":
        return  # a time of day on a shifted date
    elif element.VR in ("LO", "SH", "PN"):
        element.value = _each(element.value, rules.cleaned)
    else:
        del dataset[element.tag]


def _each(value: Any, change: Any) -> Any:
    if value is None:
        return None
    return [change(str(v)) for v in value] if hasattr(value, "append") else change(str(value))


def _coded(concept: Any) -> Dataset:
    item = Dataset()
    code = concept
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def left_behind(dataset: Dataset, words: set[str]) -> list[str]:
    """Attributes whose value still holds one of `words`: for checks, never for logs (it names attributes, not values)."""
    found = []
    for element in dataset.iterall():
        if element.VR in TEXTS | {"DA", "DT", "AE", "CS"} and element.value:
            here = {w.lower() for w in _WORD.findall(str(element.value))}
            if here & words:
                found.append(element.keyword or str(element.tag))
    return found
