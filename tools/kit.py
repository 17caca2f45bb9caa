"""What a tool of one's own is made of: `from tools.kit import …`. docs/tools/tutorial.md makes one.

A tool that looks at images subclasses `ImageTool` and says in `look` what it found; any other subclasses `CaseTool` and implements
`answer`. Facts are made with `measurement` and `finding`, which fill in where they come from.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from knowledge.case import Case
from knowledge.evidence import Coding, Fact, ImageRef, Kind
from knowledge.studies.model import Series, Study
from knowledge.studies.volume import Volume
from tools.base import Bench, Card, CaseTool, Cost, Effect, Missing, Needs, NoArguments, Reply
from tools.errors import Cancelled, Failed, NeedsApproval, NotApplicable, TryAgain
from tools.models.fit import same_part
from tools.models.masks import is_stack, newest_first, placed, segmentation
from tools.models.shape import axial


class ImageArguments(BaseModel):
    """Arguments of a tool that looks at one series; subclass it for more."""

    model_config = ConfigDict(extra="forbid")
    study: str | None = Field(None, description="Handle of the study or series (S1, S1.2); left out: the newest that fits.")
    target: str | None = Field(
        None, max_length=60, description="The outlined region that is meant (nodule, liver, whole tumour)."
    )


@dataclass(frozen=True)
class Outline:
    """A region on the grid of its series: voxels of 0 and 1, its name, and who drew it."""

    name: str
    mask: Volume
    by: str
    url: str | None = None


@dataclass(frozen=True)
class Picture:
    """The series that a tool looks at, with its study. `tool`: name and version, for what is found."""

    bench: Bench
    study: Study
    series: Series
    tool: tuple[str, str]

    @property
    def case(self) -> Case:
        """The case that the series is of."""
        return self.bench.required_case

    @cached_property
    def volume(self) -> Volume:
        """Its voxels [column, row, slice] with their place in the patient (mm, LPS); values are HU for CT, SUV for PET."""
        return self.case.volume(self.series)

    def outline(self, target: str | None = None) -> Outline:
        """The region named `target`: as a segmentation (DICOM SEG) of the study draws it, else as an installed model does.

        Raises NotApplicable where nobody outlines it."""
        drawn = [s for s in self.study.series if s.modality == "SEG"]
        named = [s for s in drawn if target is None or target.lower() in s.description.lower()]
        for one in named:
            mask = on_grid(self.case.volume(one), self.volume)
            if mask.array.any():
                return Outline(target or one.description.rsplit(", ", 1)[-1], mask, f"the segmentation {one.handle}")
        try:
            done = segmentation(self.bench, self.series.handle, target)
        except NotApplicable as error:
            there = f"; the study's own segmentations are {', '.join(s.description for s in drawn)}" if drawn else ""
            raise NotApplicable(
                f"{target or 'a lesion'} isn't outlined on {self.series.handle}: {error}{there}", error.hint
            ) from error
        region = done.region(target)
        part = done.part(region)
        assert part is not None
        return Outline(region.name, on_grid(part, self.volume), f"{done.bundle.name} {done.bundle.version}", done.url)

    def source(self, outline: Outline | None = None, frame: int | None = None, box: list[float] | None = None) -> ImageRef:
        """Where it was found: on the slice `frame` of the axial view, or on the one that shows most of the outline."""
        if frame is None:
            shown = axial(outline.mask if outline else self.volume).array
            frame = int(shown.sum((0, 1)).argmax()) if outline else shown.shape[2] // 2
        name, own = self.tool
        return ImageRef(study_id=self.study.id, series_uid=self.series.series_uid, mask=outline.url if outline else None, model=name,
                        model_version=own, **placed(self.volume, frame, box))  # fmt: skip


def on_grid(mask: Volume, image: Volume) -> Volume:
    """`mask` as 0 and 1 on the grid of `image` (nearest voxel, by their places in the patient). Raises NotApplicable where one has no place."""
    if mask.affine is None or image.affine is None:
        raise NotApplicable("an outline or its image has no place in space", "send the original DICOM series")
    inside = (mask.array > 0).astype(np.uint8)
    if not mask.same_grid(image):
        between = np.linalg.inv(mask.affine) @ image.affine
        inside = ndimage.affine_transform(inside, between[:3, :3], between[:3, 3], output_shape=image.array.shape, order=0)
    return image.like(inside)


def measurement(title: str, value: float, unit: str, on: Picture, outline: Outline | None = None, code: Coding | None = None,
                frame: int | None = None, box: list[float] | None = None, digits: int = 4) -> Fact:  # fmt: skip
    """One quantity in a UCUM unit (mm, mL, [hnsf'U] or HU), taken on a picture. Its sentence is made here."""
    if not np.isfinite(value):
        raise Failed(f"{title} came out as {value}", "this is the tool's mistake: report it")
    shown = float(f"{value:.{digits}g}")
    where = f" of the {outline.name}" if outline else ""
    by = f" Outlined by {outline.by}." if outline else ""
    statement = f"{title}{where} on series {on.series.handle}: {shown:g} {unit}.{by}"
    return Fact(
        kind=Kind.MEASUREMENT,
        title=title,
        statement=statement,
        value=shown,
        unit=unit,
        code=code,
        source=on.source(outline, frame, box),
    )


def finding(title: str, statement: str, on: Picture, value: Any = None, outline: Outline | None = None, code: Coding | None = None,
            frame: int | None = None, box: list[float] | None = None) -> Fact:  # fmt: skip
    """Something seen on a picture; `statement` is the whole sentence that says it."""
    return Fact(
        kind=Kind.FINDING, title=title, statement=statement, value=value, code=code, source=on.source(outline, frame, box)
    )


class ImageTool(CaseTool):
    """A tool that looks at one series, which is found by what `needs` names."""

    args_schema: Any = ImageArguments

    @abstractmethod
    def look(self, picture: Picture, arguments: Any) -> Sequence[Fact] | Reply:
        """What there is on the picture. Raises NotApplicable where it is nothing for this tool."""

    def answer(self, arguments: Any) -> Reply:
        """`look`, on the newest series that fits."""
        found = self.look(self.picture(getattr(arguments, "study", None)), arguments)
        if self.bench.cancelled():
            raise Cancelled("it was stopped", "ask again")
        return found if isinstance(found, Reply) else Reply(text="\n".join(f.statement for f in found), facts=list(found))

    def picture(self, handle: str | None = None) -> Picture:
        """The newest series of the needed modality, body part and sequence, with true geometry. Raises NotApplicable with the reasons."""
        reasons = []
        for study in newest_first(self.bench.required_case, handle):
            stacks = [s for s in study.series if is_stack(s) and (handle is None or "." not in handle or s.handle == handle)]
            if not stacks:
                reasons.append(f"{study.handle} holds no image of several slices")
            for series in stacks:
                if why := self._unfit(study, series):
                    reasons.append(f"{series.handle} {why}")
                else:
                    return Picture(self.bench, study, series, (self.name, self.card.version))
        wanted = " ".join(
            [*self.needs.sequences, "/".join(self.needs.modality), "of", "/".join(self.needs.body_part) or "any body part"]
        )
        raise NotApplicable(f"{self.name} needs {wanted}: {'; '.join(reasons)}", "add such a series, or name another study")

    def _unfit(self, study: Study, series: Series) -> str:
        needs = self.needs
        if needs.modality and series.modality not in needs.modality:
            return f"is {series.modality}"
        if needs.sequences and series.sequence not in needs.sequences:
            return f"is {series.sequence or 'of no known sequence'}"
        part = series.body_part or study.body_part
        if needs.body_part and not any(same_part(p, part) for p in needs.body_part):
            return f"shows {part or 'an unnamed body part'}"
        if series.spacing_mm is None:
            return f"has no true geometry ({'; '.join(series.warnings) or 'no spacing'})"
        return ""


__all__ = [
    "Bench",
    "Cancelled",
    "Card",
    "Case",
    "CaseTool",
    "Coding",
    "Cost",
    "Effect",
    "Fact",
    "Failed",
    "ImageArguments",
    "ImageRef",
    "ImageTool",
    "Kind",
    "Missing",
    "Needs",
    "NeedsApproval",
    "NoArguments",
    "NotApplicable",
    "Outline",
    "Picture",
    "Reply",
    "TryAgain",
    "finding",
    "measurement",
    "on_grid",
]
