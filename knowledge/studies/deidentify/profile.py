"""The Basic Application Level Confidentiality Profile and its options (PS3.15 E.2, E.3): what happens to each attribute.

The table (`profile.json`) is facts of Table E.1-1; its `source` says by which tabulations.
"""

import json
from enum import StrEnum
from functools import cache
from pathlib import Path


class Option(StrEnum):
    """Options of the profile (PS3.15 E.3)."""

    UIDS = "uids"
    """Retain UIDs."""
    FULL_DATES = "full_dates"
    """Retain longitudinal temporal information, full dates."""
    MODIFIED_DATES = "modified_dates"
    """Retain longitudinal temporal information, dates shifted by the same days for all of a patient's."""
    DEVICE = "device"
    """Retain device identity."""
    CHARACTERISTICS = "characteristics"
    """Retain patient characteristics (age, sex, size, weight)."""
    INSTITUTION = "institution"
    """Retain institution identity."""
    SAFE_PRIVATE = "safe_private"
    """Retain private attributes that are known to be physics."""
    DESCRIPTORS = "descriptors"
    """Clean descriptors: kept without what names a person, a place or a day."""
    STRUCTURED = "structured"
    """Clean structured content."""
    GRAPHICS = "graphics"
    """Clean graphics."""
    PIXELS = "pixels"
    """Clean pixel data: text found by OCR is blanked."""
    FACES = "faces"
    """Clean recognizable visual features: the surface of the face is taken off."""


CODES = {
    Option.UIDS: "RetainUidsOption", Option.FULL_DATES: "RetainLongitudinalTemporalInformationFullDatesOption",
    Option.MODIFIED_DATES: "RetainLongitudinalTemporalInformationModifiedDatesOption",
    Option.DEVICE: "RetainDeviceIdentityOption", Option.CHARACTERISTICS: "RetainPatientCharacteristicsOption",
    Option.INSTITUTION: "RetainInstitutionIdentityOption", Option.SAFE_PRIVATE: "RetainSafePrivateOption",
    Option.DESCRIPTORS: "CleanDescriptorsOption", Option.STRUCTURED: "CleanStructuredContentOption",
    Option.GRAPHICS: "CleanGraphicsOption", Option.PIXELS: "CleanPixelDataOption",
    Option.FACES: "CleanRecognizableVisualFeaturesOption",
}  # fmt: skip

PROFILES: dict[str, frozenset[Option]] = {
    "basic": frozenset({Option.PIXELS, Option.GRAPHICS}),
    "research": frozenset({Option.PIXELS, Option.GRAPHICS, Option.MODIFIED_DATES, Option.CHARACTERISTICS, Option.DEVICE,
                           Option.SAFE_PRIVATE, Option.DESCRIPTORS}),
}  # fmt: skip
"""basic: nothing that could be told of a person is kept. research: what images can't be read without is, dates are shifted."""

SAFE_PRIVATE: dict[str, tuple[tuple[int, int], ...]] = {
    "SIEMENS MR HEADER": ((0x0019, 0x0A), (0x0019, 0x0B), (0x0019, 0x0C), (0x0019, 0x0D), (0x0019, 0x0E), (0x0019, 0x27), (0x0019, 0x28)),
    "GEMS_PARM_01": ((0x0043, 0x39),), "GEMS_ACQU_01": ((0x0019, 0xBB), (0x0019, 0xBC), (0x0019, 0xBD)),
    "Philips PET Private Group": ((0x7053, 0x00), (0x7053, 0x09)),
    "Philips Imaging DD 001": ((0x2001, 0x03), (0x2001, 0x04)),
}  # fmt: skip
"""Private elements that are numbers of the acquisition (b value, gradients, mosaic tiles, SUV factors) by pydicom's private dictionary."""


@cache
def _table() -> dict[str, list[object]]:
    actions: dict[str, list[object]] = json.loads((Path(__file__).parent / "profile.json").read_text())["actions"]
    return actions


def action(tag: int, options: frozenset[Option]) -> str:
    """K keep, X remove, Z empty, D dummy, U replace the UID, C clean; K for attributes that the profile doesn't name."""
    group = tag >> 16
    if group % 2:
        return "P"
    if group & 0xFF00 in (0x5000, 0x6000):
        return "X" if group & 0xFF00 == 0x5000 or tag & 0xFFFF in (0x3000, 0x4000) else "K"
    entry = _table().get(f"{tag:08X}")
    if entry is None:
        return "K"
    chosen = entry[1] if len(entry) > 1 else {}
    assert isinstance(chosen, dict)
    for option in options:
        if option in chosen:
            return str(chosen[option])
    # Of several actions the mildest that leaves the object valid whatever the attribute's type in it (E.3.1): a value, else an empty one.
    parts = str(entry[0]).split("/")
    return next(a for a in ("U", "D", "Z", "X") if a in parts)


def method_codes(options: frozenset[Option]) -> list[object]:
    """The coded concepts (PS3.16 CID 7050) for De-identification Method Code Sequence."""
    from pydicom.sr.codedict import codes

    names = ["BasicApplicationConfidentialityProfile", *(CODES[o] for o in sorted(options))]
    return [getattr(codes.CID7050, name) for name in names]
