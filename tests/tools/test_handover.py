"""Results that other systems read: DICOM objects of outlined lesions come back without loss, with the same names."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest

from knowledge.studies.outlines import outlines
from knowledge.studies.unpack import Incoming
from tests.tools.test_course import bench_of
from tools.annotations import ReadAnnotations
from tools.base import Bench, Resources
from tools.course.following import Course, follow
from tools.export.drawn import Drawing, drawing_of
from tools.export.objects import Form, made
from tools.followed import course_of_three


@pytest.fixture
def followed(resources: Resources, tmp_path: Path) -> tuple[Bench, Course, Drawing]:
    bench = bench_of(resources, tmp_path, course_of_three())
    course = follow(bench, bench.required_case.studies)
    found = course.founds[-1]
    path = bench.required_case.derived(found.image) / course.maps[-1].rsplit("/", 1)[1]
    return bench, course, drawing_of(bench.required_case.archive, resources.catalogue, found.study, found.image, path)


def again(bench: Bench, drawing: Drawing, forms: tuple[Form, ...]) -> Bench:
    """The case with these objects taken in."""
    case = bench.required_case
    files = [f for form in forms for f in made(drawing, form)]
    done = case.archive.add([Incoming(f"{n}.dcm", f) for n, f in enumerate(files)])
    assert not done.rejected
    return bench_again(bench)


def bench_again(bench: Bench) -> Bench:
    from dataclasses import replace

    from knowledge.case import open_case

    return replace(bench, case=open_case(bench.required_case.archive, bench.required_case.patient.id))


@pytest.mark.parametrize("form", ["seg", "rtstruct"])
def test_outlines_come_back_to_the_voxel_with_their_tracking_ids(followed: tuple[Bench, Course, Drawing], form: Form) -> None:
    bench, course, drawing = followed
    case = again(bench, drawing, (form,)).required_case
    study = case.study("S3")
    back = {o.tracking[1]: o for o in outlines(case.archive, study) if o.ours and o.tracking}
    assert set(back) == {p.tracking[1] for p in drawing.parts} == {t.name.uid for t in course.tracks if t.name}
    from tools.kit import on_grid

    for part in drawing.parts:
        voxels = on_grid(back[part.tracking[1]].mask(), drawing.volume).array > 0
        assert np.array_equal(voxels, np.isin(drawing.mask.array, part.labels)), "Dice 1.0"


def test_a_hole_is_a_hole_after_contours(followed: tuple[Bench, Course, Drawing]) -> None:
    from dataclasses import replace

    bench, _, drawing = followed
    part = drawing.parts[0]
    labels = drawing.labels.copy()
    mask = drawing.mask.array.copy()
    inside = np.argwhere(labels == part.labels[0])
    k, r, c = (int(v) for v in np.median(inside, axis=0))
    labels[k, r - 1 : r + 2, c - 1 : c + 2] = 0
    mask[c - 1 : c + 2, r - 1 : r + 2, k] = 0
    hollow = replace(drawing, labels=labels, mask=drawing.mask.like(mask))
    case = again(bench, hollow, ("rtstruct",)).required_case
    back = next(
        o for o in outlines(case.archive, case.study("S3")) if o.ours and o.tracking and o.tracking[1] == part.tracking[1]
    )
    assert np.array_equal(back.mask().array > 0, mask == part.labels[0])


def test_measurements_come_back_as_the_same_numbers(followed: tuple[Bench, Course, Drawing]) -> None:
    bench, course, drawing = followed
    case = again(bench, drawing, ("seg", "sr")).required_case
    stated = {(i.name, i.unit): i.value for i in case.items if i.category == "imaging measurement"}
    for track in course.tracks:
        size = {
            q: v
            for (name, _), v in stated.items()
            for q in ("Volume", "Long Axis", "Short Axis")
            if track.called in name and name.endswith(q)
        }
        assert size["Long Axis"] == pytest.approx(track.total(2, "diameter"), abs=1e-3)
        assert size["Volume"] == pytest.approx(track.total(2, "volume"), abs=1e-4)
    report = pydicom.dcmread(io.BytesIO(made(drawing, "sr")[0]))
    assert report.VerificationFlag == "UNVERIFIED" and report.CompletionFlag == "COMPLETE"
    told = ReadAnnotations.bound(bench_again(bench)).reply({"study": "S3"})
    assert not any("Long Axis" in f.statement for f in told.facts), "its own measurements aren't somebody else's"
    assert any(f.title == "Outlines of S3" for f in told.facts)


def test_exports_are_series_of_the_study_and_change_no_name(followed: tuple[Bench, Course, Drawing]) -> None:
    bench, course, drawing = followed
    after = again(bench, drawing, ("seg", "sr", "rtstruct", "ko", "sc"))
    study = after.required_case.study("S3")
    assert {"SEG", "RTSTRUCT", "SR", "KO", "OT"} <= {s.modality for s in study.series} | {"SR", "KO"}
    new = follow(after, after.required_case.studies)
    assert [(t.called, t.name.uid if t.name else "", len(t.seen)) for t in new.tracks] == [
        (t.called, t.name.uid if t.name else "", len(t.seen)) for t in course.tracks
    ]


def test_the_same_mask_gives_the_same_objects(followed: tuple[Bench, Course, Drawing]) -> None:
    _, _, drawing = followed
    for form in ("seg", "sr", "rtstruct", "ko", "sc"):
        first, second = (pydicom.dcmread(io.BytesIO(made(drawing, form)[0])) for _ in range(2))
        assert (first.SOPInstanceUID, first.SeriesInstanceUID) == (second.SOPInstanceUID, second.SeriesInstanceUID)


def test_no_picture_carries_the_patient(followed: tuple[Bench, Course, Drawing]) -> None:
    _, _, drawing = followed
    picture = pydicom.dcmread(io.BytesIO(made(drawing, "sc")[0]))
    assert picture.BurnedInAnnotation == "NO" and "COURSE" not in picture.ImageComments
    colours = np.unique(picture.pixel_array.reshape(-1, 3), axis=0)
    assert (colours.max(1) - colours.min(1) > 40).any(), "outline and ruler are drawn in colour"
