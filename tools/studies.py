"""`list_studies` and `explain_image_metadata`: what images there are, and how they were made."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from knowledge.evidence import Fact, ImageRef, Kind
from knowledge.studies.model import Series, Study
from tools.base import Card, CaseTool, Cost, Missing, Reply
from tools.concepts import IMAGE_METADATA, STUDY_CONTENT
from tools.errors import NotApplicable

HEADER_READER = "archive"
VERSION = "1"


class StudyArguments(BaseModel):
    """Which study or series is meant."""

    model_config = ConfigDict(extra="forbid")
    study: str | None = Field(None, description="Handle of a study (S1) or series (S1.2); left out: all of the case.")


class ListStudies(CaseTool):
    """The imaging studies of the case."""

    name: str = "list_studies"
    description: str = "List the imaging studies of the case with date, modality, body part and series."
    args_schema: type[BaseModel] = StudyArguments
    asks: ClassVar[list[str]] = [
        "Which studies are there?", "What imaging do we have?", "List the scans of this patient", "What do you see on this MRI?",
        "Has it grown since the last scan?", "Compare the tumours", "Is there a prior?", "What was done and when?",
    ]  # fmt: skip
    gives: ClassVar[list[Kind]] = [Kind.FINDING]
    card: ClassVar[Card] = Card(
        intended_use="Inventory of a case, read from headers.", accuracy="As the files state it.",
        limits="Sequence names come from descriptions and file names.",
    )  # fmt: skip
    cost: ClassVar[Cost] = Cost(seconds=0.01)

    def answer(self, arguments: StudyArguments) -> Reply:
        case = self.bench.required_case
        studies = [case.study(arguments.study.split(".")[0])] if arguments.study else case.studies
        if not studies:
            missing = Missing(what="imaging studies", why="the case holds none", would_change="images could be described")
            return Reply(text="The case holds no imaging study.", missing=[missing])
        facts = [_fact(s) for s in studies]
        return Reply(text="\n".join(f.statement for f in facts), facts=facts)


def _fact(study: Study) -> Fact:
    parts = [f"{q.sequence or q.description or q.modality}" for q in study.series if q.is_image]
    shape = study.series[0].shape
    when = f"dated {study.date}" if study.date else "without a date"
    body = f" of the {study.body_part.lower()}" if study.body_part else ", body part not stated"
    modalities = "/".join(study.image_modalities)
    size = f" ({' x '.join(map(str, shape))} voxels)" if len({tuple(s.shape) for s in study.series}) == 1 else ""
    statement = f"Study {study.handle} is a {modalities}{body}, {when}, with {len(study.series)} series: " + (
        f"{', '.join(parts[:12])}{' …' if len(parts) > 12 else ''}{size}."
    )
    value = {"handle": study.handle, "modalities": study.modalities, "date": study.date, "series": parts,
             "body_part": study.body_part}  # fmt: skip
    first = study.series[0]
    return Fact(kind=Kind.FINDING, title=f"Study {study.handle}", statement=statement, value=value, code=STUDY_CONTENT,
                source=ImageRef(study_id=study.id, series_uid=first.series_uid, frame=first.shape[-1] // 2,
                                model=HEADER_READER, model_version=VERSION))  # fmt: skip


class ExplainImageMetadata(CaseTool):
    """Technical attributes of a series."""

    name: str = "explain_image_metadata"
    description: str = "Explain how a series was acquired: slice thickness, spacing, sequence timing, dose, kernel, contrast."
    args_schema: type[BaseModel] = StudyArguments
    asks: ClassVar[list[str]] = [
        "What is the slice thickness?", "Which kernel and dose were used?", "How was this scan acquired?",
        "What is the voxel spacing and matrix?", "Which scanner and field strength?", "Was contrast given?", "What are TR and TE?",
        "Explain the DICOM tags of this series",
    ]  # fmt: skip
    gives: ClassVar[list[Kind]] = [Kind.FINDING]
    card: ClassVar[Card] = Card(
        intended_use="Reads acquisition attributes from headers.", accuracy="As the header states it.",
        limits="NIfTI files carry geometry only; attributes that identify a person are never read out.",
    )  # fmt: skip
    cost: ClassVar[Cost] = Cost(seconds=0.01)

    def answer(self, arguments: StudyArguments) -> Reply:
        case = self.bench.required_case
        if arguments.study and "." in arguments.study:
            chosen = [case.series(arguments.study)]
        else:
            studies = [case.study(arguments.study)] if arguments.study else case.studies
            chosen = [(s, q) for s in studies for q in s.series if q.is_image]
        if not chosen:
            raise NotApplicable("the case holds no image series", "add the images")
        facts = [_attributes(s, q) for s, q in chosen[:8]]
        missing = []
        if all(s.source.format != "DICOM" for s, _ in chosen):
            missing.append(Missing(what="DICOM headers", why="NIfTI files and pictures carry no acquisition attributes",
                                   would_change="sequence timing, dose, kernel and scanner could be named"))  # fmt: skip
        return Reply(text="\n".join(f.statement for f in facts), facts=facts, missing=missing)


_SPOKEN = {"SliceThickness": "slice thickness {} mm", "RepetitionTime": "TR {} ms", "EchoTime": "TE {} ms",
           "InversionTime": "TI {} ms", "FlipAngle": "flip angle {}°", "MagneticFieldStrength": "{} T", "KVP": "{} kV",
           "ConvolutionKernel": "kernel {}", "CTDIvol": "CTDIvol {} mGy", "ContrastBolusAgent": "contrast agent {}",
           "Manufacturer": "scanner by {}"}  # fmt: skip


def _attributes(study: Study, series: Series) -> Fact:
    name = series.sequence or series.description or series.modality
    told = [f"{' x '.join(map(str, series.shape))} voxels"]
    if series.spacing_mm:
        told.append(f"voxel spacing {' x '.join(f'{s:g}' for s in series.spacing_mm)} mm")
    told += [text.format(series.header[k]) for k, text in _SPOKEN.items() if k in series.header]
    doubts = f" Geometry warning: {'; '.join(series.warnings)}." if series.warnings else ""
    statement = f"Series {series.handle} ({series.modality} {name}) has {', '.join(told)}.{doubts}"
    return Fact(kind=Kind.FINDING, title=f"Series {series.handle}", statement=statement, code=IMAGE_METADATA,
                value={"shape": series.shape, "spacing_mm": series.spacing_mm,
                       **{k: v for k, v in series.header.items() if not k.endswith("UID")}},
                source=ImageRef(study_id=study.id, series_uid=series.series_uid, frame=series.shape[-1] // 2,
                                model=HEADER_READER, model_version=VERSION))  # fmt: skip
