"""Which series is which: how often intake says it rightly on the real series of ../shared/data, as they come and with their names taken away."""

import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom

from knowledge.studies.archive import Archive
from knowledge.studies.model import Series
from knowledge.studies.unpack import Incoming
from tests.eval import SHARED, wilson

WORDS = ("SeriesDescription", "ProtocolName", "StudyDescription", "BodyPartExamined", "SequenceName", "ContrastBolusAgent")


@dataclass(frozen=True)
class Truth:
    """A real series and what it is; `None` where nobody says."""

    path: str
    modality: str
    sequence: str | None = None
    plane: str | None = "axial"
    body_part: str | None = None
    contrast: bool | None = None


TRUTHS = [
    *(Truth(f"mri3d_glioma_tcga_4ch/TCGA-DU-7294/TCGA-DU-7294_{n}_bet.nii.gz", "MR", s, body_part=None)
      for n, s in (("t1", "T1"), ("t1c", "T1c"), ("t2", "T2"), ("fla", "FLAIR"))),
    *(Truth(f"mri3d_glioma_brats_NC/brats_2013_pat000{n}_1/{f}_subtrMeanDivStd.nii.gz", "MR", s, body_part="BRAIN")
      for n in (3, 4, 5, 6) for f, s in (("Flair", "FLAIR"), ("T1c", "T1c"))),
    Truth("dicom_mr_brain_defaced", "MR", "T1", "sagittal"),
    Truth("ct_mr_body_totalseg/example_ct_dicom", "CT", contrast=True),
    Truth("ct_mr_body_totalseg/example_ct.nii.gz", "CT"),
    Truth("dicom_seg_sr_dcmqi/segmentations/ct-3slice", "CT"),
    Truth("dicom_odd_pydicom/dicomdirtests/77654033/CT2", "CT", body_part="BRAIN"),
    Truth("radiomics_nrrd_pyradiomics/brain1_image.nrrd", "MR", body_part="BRAIN"),
    Truth("radiomics_nrrd_pyradiomics/breast1_image.nrrd", "MR", body_part="BREAST", plane=None),
]  # fmt: skip


def files(truth: Truth, blind: bool) -> Iterator[Incoming]:
    """The series' files; blind: without names and without the attributes that are words."""
    path = SHARED / "data" / truth.path
    for number, one in enumerate(sorted(path.glob("*")) if path.is_dir() else [path]):
        data = one.read_bytes()
        name = one.name
        if blind:
            name = f"{number}" + "".join(one.suffixes[-2:] if one.name.endswith(".gz") else one.suffixes[-1:])
            if data[128:132] == b"DICM":
                dataset = pydicom.dcmread(io.BytesIO(data))
                for keyword in WORDS:
                    if keyword in dataset:
                        delattr(dataset, keyword)
                buffer = io.BytesIO()
                dataset.save_as(buffer)
                data = buffer.getvalue()
        yield Incoming(name, data)


def said(truth: Truth, blind: bool) -> Series | None:
    with tempfile.TemporaryDirectory() as folder:
        done = Archive(Path(folder)).add(files(truth, blind))
        return max((s for study in done.studies for s in study.series), key=lambda s: s.instances, default=None)


def scores() -> dict[str, Any]:
    """For each question: right, silent, wrong, of how many; as they come and blind."""
    found: dict[str, Any] = {}
    for blind in (False, True):
        for what in ("modality", "sequence", "plane", "body_part", "contrast"):
            tally = {"right": 0, "silent": 0, "wrong": 0}
            for truth in TRUTHS:
                expected = getattr(truth, what)
                if expected is None:
                    continue
                series = said(truth, blind)
                value = getattr(series, what) if series else None
                kind = "right" if value == expected else "silent" if value in (None, "", "OT") else "wrong"
                tally[kind] += 1
                if kind == "wrong":
                    print(f"{'blind' if blind else 'named'} {what}: {truth.path}: {value} is {expected}")
            count = sum(tally.values())
            found[f"{'blind' if blind else 'as_they_come'}_{what}"] = {
                **tally,
                "of": count,
                "interval": wilson(tally["right"], count),
            }
    return found


if __name__ == "__main__":
    for name, value in scores().items():
        print(f"{name:<28} {value}")
