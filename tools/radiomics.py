"""`radiomics`: the IBSI feature classes of an outlined region, by pyradiomics, with the settings kept beside the values."""

from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from knowledge.evidence import Fact, ImageRef, Kind
from knowledge.studies.volume import Volume
from tools.base import Card, CaseTool, Cost, Missing, Needs, Reply
from tools.concepts import FEATURES
from tools.errors import NotApplicable
from tools.models import worker
from tools.models.masks import image_source, region_of, segmentation
from tools.models.shape import axial
from tools.segment import doubts

CLASSES = ("shape", "firstorder", "glcm", "glrlm", "glszm", "gldm", "ngtdm")
"""Feature classes of IBSI as pyradiomics has them."""
SPOKEN = {"shape": ("MeshVolume", "Maximum3DDiameter", "Sphericity"), "firstorder": ("Mean", "Entropy", "Skewness"),
          "glcm": ("Contrast", "Correlation", "JointEntropy"), "glrlm": ("RunEntropy", "LongRunEmphasis"),
          "glszm": ("ZoneEntropy", "LargeAreaEmphasis"), "gldm": ("DependenceEntropy",), "ngtdm": ("Coarseness", "Busyness")}  # fmt: skip
"""Named in the sentence; all are in the evidence's value."""
BIN_COUNT = {"MR": 32}
"""Bins for values without a unit, which differ from scan to scan (IBSI: fixed bin number); others get bins of BIN_WIDTH."""
BIN_WIDTH = {"CT": 25.0, "PT": 0.25}
"""HU and SUV (IBSI: fixed bin size, pyradiomics' own default for CT)."""


class RadiomicsArguments(BaseModel):
    """Which region, on which series."""

    model_config = ConfigDict(extra="forbid")
    study: str | None = Field(None, description="Handle of the study (S1); left out: the newest that fits.")
    target: str | None = Field(None, max_length=60, description="Region: whole tumour, tumour core, enhancing tumour, an organ …")
    series: str | None = Field(
        None, description="Handle of the series whose values are described (S1.2); left out: the outlined one."
    )
    classes: list[str] = Field(default_factory=lambda: list(CLASSES), max_length=7, description=f"Of {', '.join(CLASSES)}.")


class Radiomics(CaseTool):
    """Shape, histogram and texture of a region."""

    name: str = "radiomics"
    description: str = (
        "Radiomic features (IBSI classes: shape, first order, GLCM, GLRLM, GLSZM, GLDM, NGTDM) of an outlined region."
    )
    args_schema: type[BaseModel] = RadiomicsArguments
    asks: ClassVar[list[str]] = [
        "Compute the radiomic features", "Radiomics of the tumour", "What is the texture of the lesion?", "GLCM and shape features",
        "How heterogeneous is the tumour?", "Extract IBSI features", "Sphericity and entropy of the enhancing part",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs(modality=["MR", "CT"], sequences=["FLAIR"], after=["segment"])
    gives: ClassVar[list[Kind]] = [Kind.FINDING]
    card: ClassVar[Card] = Card(
        intended_use="Research features of an outlined region.",
        accuracy="pyradiomics' own published baseline values are reproduced to its own tolerance of 3 % (tests/tools/test_radiomics.py).",
        limits="Texture depends on scanner, protocol and bins: compare only features with equal settings. pyradiomics differs from IBSI in "
        "kurtosis (3 more) and in bin edges that start at a multiple of the width. No feature is a diagnosis.",
        licence="BSD-3-Clause (pyradiomics)",
    )
    cost: ClassVar[Cost] = Cost(seconds=4, memory_mb=800)

    def answer(self, arguments: RadiomicsArguments) -> Reply:
        unknown = set(arguments.classes) - set(CLASSES)
        if unknown:
            raise NotApplicable(f"there are no feature classes {sorted(unknown)}", f"the classes are {', '.join(CLASSES)}")
        case = self.bench.required_case
        done = segmentation(self.bench, arguments.study, arguments.target)
        region = region_of(done, arguments.target)
        mask = done.part(region)
        assert mask is not None
        if int(mask.array.sum()) < 27:
            raise NotApplicable(
                f"the {region.name} has {int(mask.array.sum())} voxels: too few for features", "choose another region"
            )
        series, image = done.series, done.volume
        if arguments.series:
            _, series = case.series(arguments.series)
            image = case.volume(series)
            if not image.same_grid(mask):
                raise NotApplicable(f"{series.handle} isn't on the grid of {done.series.handle}", "name a series of that grid")
        settings = settings_of(series.modality)
        values, version = worker.run(features, *_cut(image, mask), settings, list(dict.fromkeys(arguments.classes)),
                                     progress=self.bench.progress, cancelled=self.bench.cancelled)  # fmt: skip
        turned = axial(mask)
        where = image_source(done, frame=int(turned.array.sum((0, 1)).argmax()))
        source = ImageRef(**{**where, "model": "pyradiomics", "model_version": version})
        facts = []
        for name, found in values.items():
            told = ", ".join(f"{k} {found[k]:.4g}" for k in SPOKEN[name] if k in found)
            statement = (f"{len(found)} {name} features of the {region.name} on series {series.handle} ({series.sequence or series.modality}), "
                         f"by pyradiomics {version}: {told}; the evidence holds all, with the settings.")  # fmt: skip
            facts.append(Fact(kind=Kind.FINDING, title=f"Radiomics: {name}", statement=statement, code=FEATURES, source=source,
                              value={"class": name, "features": found, "settings": settings, "series": series.handle}))  # fmt: skip
        missing = doubts(done)
        if series.modality == "MR":
            missing.append(Missing(what="values with a unit", why="MR signal has none, so it was put into 32 bins between its own extremes",
                                   would_change="textures could be compared between scanners"))  # fmt: skip
        return Reply(text="\n".join(f.statement for f in facts), facts=facts, missing=missing)


def settings_of(modality: str) -> dict[str, Any]:
    """pyradiomics' settings for a modality; what isn't named is its default."""
    if modality in BIN_WIDTH:
        return {"binWidth": BIN_WIDTH[modality]}
    return {"binCount": BIN_COUNT.get(modality, 32)}


def _cut(image: Volume, mask: Volume) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image and mask around the region with a margin of two voxels, and the affine of the cut."""
    inside = np.argwhere(mask.array > 0)
    low = np.maximum(inside.min(0) - 2, 0)
    high = inside.max(0) + 3
    cut = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    assert image.affine is not None
    affine = image.affine.copy()
    affine[:3, 3] = image.affine[:3, :3] @ low + image.affine[:3, 3]
    return np.asarray(image.array[cut], np.float64), np.asarray(mask.array[cut], np.uint8), affine


def features(
    image: np.ndarray, mask: np.ndarray, affine: np.ndarray, settings: dict[str, Any], classes: list[str]
) -> tuple[dict[str, dict[str, float]], str]:
    """Features by class, and pyradiomics' version; in the model process. Arrays are [i, j, k]; values of `image` as they are."""
    import SimpleITK as sitk
    from radiomics import __version__, featureextractor, setVerbosity

    setVerbosity(60)
    extractor = featureextractor.RadiomicsFeatureExtractor(**settings)
    extractor.disableAllFeatures()
    for name in classes:
        extractor.enableFeatureClassByName(name)
    spacing = [float(np.linalg.norm(affine[:3, i])) for i in range(3)]
    pair = []
    for array in (image, mask):
        made = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
        made.SetSpacing(spacing)
        pair.append(made)
    found: dict[str, dict[str, float]] = {c: {} for c in classes}
    for key, value in extractor.execute(*pair).items():
        kind, _, rest = key.partition("_")
        name, _, feature = rest.partition("_")
        if kind == "original" and name in found:
            found[name][feature] = float(value)
    return found, str(__version__).lstrip("v")
