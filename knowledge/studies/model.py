"""Patient, Study and Series as the rest of the house sees them (shape as in the public interface)."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from knowledge.evidence import Frozen


class Geometry(StrEnum):
    """Whether lengths on a series can be trusted."""

    OK = "ok"
    """Spacing and orientation are known and regular."""
    WARNING = "warning"
    """Something is missing or irregular; `warnings` says what."""


class Series(Frozen):
    """One series. `shape` is [columns, rows, slices]; `spacing_mm` is in the same order, None where unknown."""

    id: str
    handle: str = ""
    series_uid: str
    modality: str
    description: str
    sequence: str | None = None
    plane: str | None = None
    phase: str | None = None
    contrast: bool | None = None
    body_part: str
    reasons: list[str] = Field(default_factory=list)
    """Why sequence, plane, phase, contrast and body part are what they are said to be."""
    unit: str = ""
    """Of the voxel values: HU, g/mL (SUV by body weight), Bq/mL, Gy; empty where they have none."""
    pixel_mm: list[float] | None = None
    """Column and row distance of a picture without position in space (ultrasound, projection); None where unknown."""
    instances: int
    shape: list[int]
    spacing_mm: list[float] | None
    geometry: Geometry
    warnings: list[str] = Field(default_factory=list)
    header: dict[str, Any] = Field(default_factory=dict)
    segment: int | None = Field(None, exclude=True)
    """Number of the segment that it shows, of a DICOM SEG."""

    @property
    def is_image(self) -> bool:
        """True for what a reader looks at: not masks, contours, reports or other objects of the study."""
        return len(self.shape) == 3 and self.modality not in ("SEG", "RTSTRUCT")


class StudySource(Frozen):
    """What a study was made from."""

    format: str
    files: int


class Study(Frozen):
    """One study of one patient."""

    id: str
    handle: str = ""
    patient_id: str
    study_instance_uid: str | None
    date: str | None
    description: str
    modalities: list[str]
    body_part: str
    series: list[Series]
    source: StudySource
    note: str = ""

    @property
    def image_modalities(self) -> list[str]:
        """Modalities of its images; of everything in it where it holds none."""
        return list(dict.fromkeys(s.modality for s in self.series if s.is_image)) or self.modalities


class Patient(Frozen):
    """The patient as records and headers name them; `birth_date` and `sex` may be unknown."""

    id: str
    birth_date: str | None = None
    sex: str | None = None
    name: str = Field("", exclude=True, repr=False)
    """As the header has it; only compared, to keep two people with one ID apart, and never shown."""
    issuer: str = Field("", exclude=True, repr=False)
