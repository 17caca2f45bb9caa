"""The lesions of one study, one by one: as a person or another program drew them (SEG, RTSTRUCT), else as an installed model outlines them."""

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property

import numpy as np

from knowledge.studies.model import Series, Study
from knowledge.studies.outlines import Outline, outlines
from knowledge.studies.volume import Volume
from tools.base import Bench, Missing
from tools.errors import NotApplicable
from tools.kit import on_grid
from tools.models.masks import region_of, segmentation
from tools.models.shape import Sizes, axial, edge_ml, lesions

_LESION = re.compile(
    r"lesion|nodule|tumou?r|\bmass\b|metasta|neoplas|malignan|carcinoma|lymphoma|glioma|\bnode|\bgtv|cancer|läsion|knoten|herd|病灶|结节",
    re.I,
)
_NODE = re.compile(r"\bnodes?\b|lymph|lymphknoten|ganglio|淋巴", re.I)
_NODE_CODES = {"59441001", "T-C4000", "181756000", "279795009"}
"""Structure of lymph node (SNOMED CT, and its SRT code of old)."""
_ORGANS = {
    "lung": r"lung|pulmon|lobe|bronch", "liver": r"liver|hepat", "brain": r"brain|cerebr|cerebell|front(al)? lobe|tempor|pariet|occipit|thalam",
    "kidney": r"kidney|renal", "adrenal": r"adrenal", "bone": r"bone|vertebra|rib\b|femur|pelvic bone|osseous|skelet", "spleen": r"spleen|splenic",
    "pancreas": r"pancrea", "breast": r"breast|mamma", "prostate": r"prostat", "peritoneum": r"periton|oment", "pleura": r"pleura", "muscle": r"muscle",
    "thyroid": r"thyroid", "colon": r"colon|rectum|sigmoid", "skin": r"\bskin\b", "ovary": r"ovar|adnex", "bladder": r"bladder",
}  # fmt: skip
"""Organs by which targets are counted (RECIST: two an organ), by words of labels and coded regions."""
_NOT_MEASURED = re.compile(r"ascit|effusion|leptomening|lymphangi|inflammatory breast|cavity|necros|oedema|edema|\bcyst", re.I)
"""What RECIST 1.1 and RANO 2.0 call not measurable, by words (recist_1_1.md, rano_2_0.md)."""


@dataclass(frozen=True)
class Lesion:
    """One connected lesion of one study, on the grid of the image that it was drawn on."""

    study: Study
    day: date
    series: Series
    """The image."""
    volume: Volume
    """The image's voxels."""
    mask: Volume
    """0 and 1 on the image's grid."""
    others: tuple[Sizes, ...]
    """Sizes of the stricter and the looser outline, where they are known."""
    label: str
    organ: str
    node: bool
    measurable_kind: bool
    """False for what the criteria never measure (effusion, cavity …)."""
    by: str
    drawn: bool
    """True where a person or another program drew it, false where a model of ours did."""
    tracking: tuple[str, str] | None = None
    used: tuple[str, ...] = ()

    @cached_property
    def sizes(self) -> Sizes:
        """Sizes of the outline itself."""
        return Sizes.of(axial(self.mask))

    @cached_property
    def digest(self) -> str:
        """What tells this lesion from every other: its series and its voxels."""
        where = np.flatnonzero(self.mask.array).astype("<i8")
        return hashlib.sha256(self.series.series_uid.encode() + where.tobytes()).hexdigest()[:32]

    @cached_property
    def points(self) -> np.ndarray:
        """Centres of its voxels [n, 3], patient mm (RAS+)."""
        assert self.mask.affine is not None
        return np.asarray(np.argwhere(self.mask.array) @ self.mask.affine[:3, :3].T + self.mask.affine[:3, 3])

    @property
    def centre(self) -> np.ndarray:
        """The mean of its voxels, patient mm (RAS+)."""
        return np.asarray(self.points.mean(0))

    @property
    def slices(self) -> int:
        """Slices of the axial view that show it."""
        return int((axial(self.mask).array.sum((0, 1)) > 0).sum())

    @property
    def slice_mm(self) -> float:
        """Distance of the axial slices."""
        return axial(self.mask).spacing_mm[2]

    @property
    def pixel_mm(self) -> float:
        """The longer side of a pixel in the axial view."""
        return max(axial(self.mask).spacing_mm[:2])

    def value(self, quantity: str) -> float:
        """`diameter` and `short` in mm, `product` in mm², `volume` in mL."""
        return of_sizes(self.sizes, quantity)

    def span(self, quantity: str) -> tuple[float, float]:
        """Least and greatest value that the outline's doubt allows: its stricter and looser form, and at least half a voxel at each edge."""
        values = [of_sizes(s, quantity) for s in (self.sizes, *self.others)]
        plane = self.sizes.plane
        step = {"diameter": self.pixel_mm / 2, "short": self.pixel_mm / 2, "product": self.pixel_mm / 2 * (plane.long_mm + plane.short_mm),
                "volume": edge_ml(self.sizes.volume_ml, self.mask.spacing_mm)}[quantity]  # fmt: skip
        own = values[0]
        return max(0.0, min([own - step, *values])), max([own + step, *values])


def of_sizes(sizes: Sizes, quantity: str) -> float:
    """One quantity of an outline (see `Lesion.value`)."""
    plane = sizes.plane
    return {
        "diameter": plane.long_mm,
        "short": plane.short_mm,
        "product": plane.long_mm * plane.short_mm,
        "volume": sizes.volume_ml,
    }[quantity]


@dataclass(frozen=True)
class Found:
    """The lesions of a study, the largest first, and what was left out."""

    study: Study
    day: date
    lesions: list[Lesion]
    image: Series
    volume: Volume
    """The image on which they lie, also where there are none."""
    missing: list[Missing]


def lesions_of(bench: Bench, study: Study, target: str | None = None) -> Found:
    """The lesions of a dated study. `target`: words of the label, or a model's region. Raises NotApplicable where nothing outlines any."""
    day = date.fromisoformat(study.date or "")
    drawn, missing = _drawn(bench, study, target)
    if (measured := _measured(bench, study, drawn, missing)) is not None:
        return measured
    try:
        done = segmentation(bench, study.handle, target or "tumour")
    except NotApplicable as error:
        if not missing:
            raise NotApplicable(
                f"nothing is outlined on {study.handle}: {error}", f"outline its lesions (DICOM SEG or RTSTRUCT), or {error.hint}"
            ) from error
        raise NotApplicable(f"nothing that can be measured is outlined on {study.handle}: {'; '.join(f'{m.what}: {m.why}' for m in missing)}",
                            "send the outline with the image that it was drawn on") from error  # fmt: skip
    region = region_of(done, target)
    part = done.part(region)
    assert part is not None
    sides = [p for which in ("inner", "outer") if (p := done.part(region, which)) is not None]
    organ = organ_in(study.body_part) or done.bundle.card.body_part.lower()
    found = []
    for one in [] if not part.array.any() else lesions(part) if region.tumour else [part]:
        others = tuple(Sizes.of(axial(t)) for p in sides if (t := _touching(p, one)) is not None)
        found.append(Lesion(study, day, done.series, done.volume, one, others, region.name, organ, False, True,
                            f"{done.bundle.name} {done.bundle.version}", False, used=tuple(done.used)))  # fmt: skip
    return Found(study, day, found, done.series, done.volume, missing)


def drawn_on(bench: Bench, study: Study, there: list[Outline]) -> tuple[Found | None, list[Missing]]:
    """Every one of these outlines as a measured region, organs too, and what was left out; None where none lies on a measurable image."""
    missing: list[Missing] = []
    kept = [o for o in there if not _misplaced(study, o, missing)]
    return _measured(bench, study, kept, missing), missing


def lesions_drawn(bench: Bench, study: Study, target: str | None = None) -> Found | None:
    """The lesions that others outlined on a study, dated or not; None where there are none."""
    return _measured(bench, study, *_drawn(bench, study, target))


def _measured(bench: Bench, study: Study, kept: list[Outline], missing: list[Missing]) -> Found | None:
    if not kept:
        return None
    day = date.fromisoformat(study.date) if study.date and len(study.date) == 10 else date.min
    regions, image, volume = _as_drawn(bench, study, day, kept, missing)
    return None if image is None or volume is None else Found(study, day, regions, image, volume, missing)


def _misplaced(study: Study, one: Outline, missing: list[Missing]) -> bool:
    """True, with the reason, for an outline whose image isn't there or has another frame of reference."""
    image = next((s for s in study.series if s.is_image and s.series_uid == one.on), None)
    why = ""
    if image is None:
        why = "the image that it was drawn on isn't in the study"
    elif one.frame_of_reference and image.header.get("FrameOfReferenceUID") not in (None, "", one.frame_of_reference):
        why = f"it was drawn in another frame of reference than {image.handle} has"
    if why:
        missing.append(
            Missing(
                what=f"the outline {one.label!r} ({one.series.handle})", why=why, would_change="it could be measured and followed"
            )
        )
    return bool(why)


def _touching(side: Volume, lesion: Volume) -> Volume | None:
    """The region of another outline that belongs to a lesion."""
    for part in lesions(side) if side.array.any() else []:
        if (part.array * lesion.array).any():
            return part
    return None


def _drawn(bench: Bench, study: Study, target: str | None) -> tuple[list[Outline], list[Missing]]:
    missing: list[Missing] = []
    wanted = target.replace("_", " ").lower() if target else ""
    general = wanted in ("", "tumour", "tumor", "lesion", "lesions")
    found = []
    for one in outlines(bench.required_case.archive, study):
        lesion = bool(_LESION.search(one.words)) or any(c.code in ("49755003", "M-01000") for c in one.kind)
        if (lesion if general else wanted in one.words.lower()) and not _misplaced(study, one, missing):
            found.append(one)
    if any(not o.ours for o in found):
        found = [o for o in found if not o.ours]  # what was exported from these outlines isn't another reading
    return found, missing


def _as_drawn(bench: Bench, study: Study, day: date, drawn: list[Outline], missing: list[Missing]) -> tuple[list[Lesion], Series | None, Volume | None]:  # fmt: skip
    """Lesions of the outlines, all on the image that most of them were drawn on."""
    case = bench.required_case
    counted = [o.on for o in drawn]
    image = next(s for s in study.series if s.series_uid == max(counted, key=counted.count) and s.is_image)
    if image.spacing_mm is None:
        missing.append(Missing(what=f"true geometry of {image.handle}", why="; ".join(image.warnings) or "no spacing",
                               would_change="its outlines could be measured"))  # fmt: skip
        return [], None, None
    volume = case.volume(image)
    found: list[Lesion] = []
    for one in drawn:
        try:
            mask = on_grid(one.mask(), volume)
        except (NotApplicable, ValueError) as error:
            missing.append(
                Missing(
                    what=f"the outline {one.label!r} ({one.series.handle})", why=str(error), would_change="it could be measured"
                )
            )
            continue
        node = bool(_NODE.search(one.words)) or any(c.code in _NODE_CODES for c in [*one.kind, *one.region])
        organ = (
            "lymph node"
            if node
            else organ_in(" ".join([*(c.display for c in one.region), one.label]))
            or organ_in(study.body_part)
            or study.body_part.lower()
        )
        plain = Lesion(study, day, image, volume, mask, (), one.label, organ or "unnamed organ", node, not _NOT_MEASURED.search(one.words),
                       f"{one.series.modality} {one.series.handle} ({one.by or 'author not stated'})", True, one.tracking)  # fmt: skip
        if not mask.array.any():
            missing.append(
                Missing(
                    what=f"the outline {one.label!r} ({one.series.handle})",
                    why=f"it lies outside {image.handle}",
                    would_change="it could be measured",
                )
            )
        elif one.tracking:
            found.append(plain)  # its author follows it as one, in however many pieces
        else:
            found += [replace(plain, mask=m) for m in lesions(mask)]
    kept: list[Lesion] = []
    for region in sorted(found, key=lambda x: -int(x.mask.array.sum())):
        if not any(_dice(region, other) >= SAME for other in kept):  # the same lesion as SEG and as RTSTRUCT, say
            kept.append(region)
    return kept, image, volume


SAME = 0.8
"""Dice from which two outlines of one study are the same lesion, drawn twice."""


def _dice(a: Lesion, b: Lesion) -> float:
    both = int((a.mask.array & b.mask.array).sum())
    return 2 * both / (int(a.mask.array.sum()) + int(b.mask.array.sum()))


def organ_in(words: str) -> str:
    """The organ that words name; empty where they name none."""
    return next((organ for organ, pattern in _ORGANS.items() if re.search(pattern, words, re.I)), "")
