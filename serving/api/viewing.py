"""What the page's viewer reads: how a series is shown, its frames and masks as bytes."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from knowledge.studies import frames
from serving.api.deps import Caller, HouseDep
from serving.api.studies import mask_path, series_of
from tools.models.masks import mask_files

router = APIRouter(tags=["studies"])
_BYTES: dict[int | str, dict[str, Any]] = {200: {"content": {"application/octet-stream": {}}}}
KEPT = {"Cache-Control": "private, max-age=300"}
First = Annotated[int, Query(ge=0, le=100_000)]
Count = Annotated[int, Query(ge=1, le=frames.MOST)]


@router.get("/v1/studies/{study_id}/series/{series_id}/display", operation_id="show_display", summary="How a series is shown")
def display(house: HouseDep, who: Caller, study_id: str, series_id: str) -> dict[str, Any]:
    """Size, pixel distances in mm, milliseconds between frames of a film, window (centre, width), scale of the frames' numbers, sides, and the masks made from it."""
    series = series_of(house, study_id, series_id)
    told = house.viewer.shown(series.id)
    return {**vars(told), "masks": mask_files(house.archive.derived(series.id)), "frame_ms": frame_ms(series.header)}


def frame_ms(header: dict[str, Any]) -> float | None:
    """Milliseconds between the frames of a film, as its header has them (DICOM PS3.3 C.7.6.5, Cine: Frame Time, Cine Rate,
    Recommended Display Frame Rate); None where it says nothing that can be played."""
    rates = [header.get(name) for name in ("CineRate", "RecommendedDisplayFrameRate")]
    found = [header.get("FrameTime"), *(1000 / r for r in rates if isinstance(r, int | float) and r > 0)]
    return next((round(float(ms), 2) for ms in found if isinstance(ms, int | float) and 4 <= ms <= 2000), None)


@router.get("/v1/studies/{study_id}/series/{series_id}/frames.bin", operation_id="read_frames", summary="Frames as numbers",
            response_class=Response, responses=_BYTES)  # fmt: skip
def read_frames(house: HouseDep, who: Caller, study_id: str, series_id: str, first: First = 0, count: Count = 1) -> Response:
    """Frames one after the other, rows from the top: int16, little-endian, scaled as `display` says; in colour three bytes a pixel."""
    series = series_of(house, study_id, series_id)
    return Response(house.viewer.frames(series.id, first, count), media_type="application/octet-stream", headers=KEPT)


@router.get("/v1/studies/{study_id}/series/{series_id}/masks/{name}/frames.bin", operation_id="read_mask_frames",
            summary="A mask's frames as labels", response_class=Response, responses=_BYTES)  # fmt: skip
def read_mask_frames(
    house: HouseDep, who: Caller, study_id: str, series_id: str, name: str, first: First = 0, count: Count = 1
) -> Response:
    """One byte a pixel over the series' frames; 0 is nothing."""
    series = series_of(house, study_id, series_id)
    mask = house.viewer.mask(series.id, mask_path(house, series, name))
    return Response(frames.labels(mask, first, count), media_type="application/octet-stream", headers=KEPT)
