"""RT structure sets as label maps on the series that they were drawn on (PS3.3 C.8.8.6)."""

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from sqlalchemy import select
from sqlalchemy.orm import Session

from knowledge.errors import NoGeometry, Refused
from knowledge.studies.dicom import BROKEN
from knowledge.studies.store import InstanceRow, Objects, SeriesRow
from knowledge.studies.volume import Volume

if TYPE_CHECKING:
    from knowledge.studies.volumes import VolumeCache

MAX_POINTS = 2_000_000
OFF_PLANE = 0.5
"""Contours farther than this share of the slice distance from every slice are of another grid."""


def label_map(session: Session, objects: Objects, cache: "VolumeCache", series: SeriesRow) -> Volume:
    """Labels 1, 2, … of the structures, in the order of their ROI numbers, on the grid of the series that they refer to.

    Raises NoGeometry for objects without contours, and where the series isn't in the archive.
    """
    row = session.scalar(select(InstanceRow).where(InstanceRow.study_id == series.study_id, InstanceRow.series_uid == series.uid))
    if row is None or not row.place.get("regions"):
        raise NoGeometry("it holds no image", "choose an image series of the study")
    mine = SeriesRow.study_id == series.study_id
    source = session.scalar(
        select(SeriesRow).where(mine, SeriesRow.uid == row.place.get("references")).order_by(SeriesRow.number)
    )
    if source is None or not source.layout.get("affine"):
        raise NoGeometry("the series that its contours were drawn on isn't in the archive", "import that series too")
    affine = np.array(source.layout["affine"])
    columns, rows, slices = source.layout["shape"]
    try:
        dataset = pydicom.dcmread(io.BytesIO(objects.get(row.sha256)), force=True)
        array = _drawn(dataset, np.linalg.inv(affine), (columns, rows, slices), sorted(int(n) for n in row.place["regions"]))
    except BROKEN as error:
        raise Refused(f"its contours can't be read ({type(error).__name__})", "send the original from the PACS") from error
    return Volume(array, affine, "source")


def _drawn(dataset: Any, inverse: np.ndarray, shape: tuple[int, int, int], numbers: list[int]) -> np.ndarray:
    from skimage.draw import polygon2mask

    array = np.zeros(shape, np.uint8)
    points = 0
    for region in dataset.get("ROIContourSequence") or []:
        label = numbers.index(int(region.ReferencedROINumber)) + 1
        inside = np.zeros(shape, bool)
        for contour in region.get("ContourSequence") or []:
            if str(contour.ContourGeometricType) not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
                continue
            corners = np.array([float(v) for v in contour.ContourData]).reshape(-1, 3)
            points += len(corners)
            if points > MAX_POINTS:
                raise Refused("it has more contour points than any structure set", "send the original from the PACS")
            voxel = np.c_[corners * [-1, -1, 1], np.ones(len(corners))] @ inverse.T  # LPS to RAS
            k = float(np.median(voxel[:, 2]))
            if abs(k - round(k)) <= OFF_PLANE and 0 <= round(k) < shape[2]:
                inside[:, :, round(k)] ^= polygon2mask(shape[:2], voxel[:, :2])  # a contour within another cuts a hole
        array[inside] = label
    return array
