"""Every format that is named in docs/intake.md: taken in as what it is, or refused with its reason."""

import bz2
import gzip
import io
import lzma
import tarfile
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from docx import Document
from PIL import Image
from pycdlib import PyCdlib
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from agent.testing import dicom_series
from knowledge.errors import Refused
from knowledge.studies import codecs, dicom, nifti, pixels, render
from knowledge.studies.archive import Archive, Import
from knowledge.studies.intake import Hints
from knowledge.studies.unpack import Incoming, from_bytes, from_paths
from knowledge.studies.volume import Volume
from tests.conftest import shared
from tests.knowledge.test_parts import STEP, changed, saved, slices

WHO = Hints(patient_id="P1", study_date="2026-01-02")


def taken(archive: Archive, files: dict[str, bytes], hints: Hints = WHO) -> Import:
    return archive.add((i for name, data in files.items() for i in from_bytes(name, data)), hints)


@pytest.fixture(scope="module")
def slice_file() -> bytes:
    return dicom_series(np.ones((32, 32, 1), np.uint16), np.eye(4))[0]


# Archives


def tarred(members: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_in_all_its_wrappings(archive: Archive, slice_file: bytes, mode: str) -> None:
    done = taken(archive, {"a.tar": tarred({"x/1": slice_file, "../out": slice_file}, mode)})
    assert len(done.studies) == 1 and "outside the archive" in done.rejected[0].reason


@pytest.mark.parametrize("squeeze", [gzip.compress, bz2.compress, lzma.compress])
def test_a_squeezed_file(archive: Archive, slice_file: bytes, squeeze) -> None:
    assert len(taken(archive, {"a.dcm.x": squeeze(slice_file)}).studies) == 1


def test_a_patient_cd_as_iso(archive: Archive, slice_file: bytes) -> None:
    image, buffer = PyCdlib(), io.BytesIO()
    image.new(joliet=3)
    image.add_directory("/IMG", joliet_path="/img")
    for number, data in enumerate(dicom_series(np.ones((8, 8, 3), np.uint16), np.diag([1.0, 1, 2, 1]))):
        image.add_fp(io.BytesIO(data), len(data), f"/IMG/I{number}.;1", joliet_path=f"/img/I{number}")
    index = (shared("data", "dicom_odd_pydicom") / "dicomdirtests" / "DICOMDIR").read_bytes()
    image.add_fp(io.BytesIO(index), len(index), "/DICOMDIR.;1", joliet_path="/DICOMDIR")
    image.write_fp(buffer)
    done = taken(archive, {"cd.iso": buffer.getvalue()})
    assert done.studies[0].series[0].shape == [8, 8, 3]
    assert ["index of a disc" in r.reason for r in done.rejected] == [True]
    half = taken(Archive(archive.root.parent / "b"), {"cd.iso": buffer.getvalue()[: len(buffer.getvalue()) // 2]})
    assert all(r.reason for r in half.rejected)


def test_a_dicomdir_folder(archive: Archive) -> None:
    done = archive.add(from_paths([shared("data", "dicom_odd_pydicom", "dicomdirtests")]))
    assert len({s.patient_id for s in done.studies}) == 2 and sum(s.source.files for s in done.studies) == 31
    assert all("index of a disc" in r.reason for r in done.rejected)


# Volumes without DICOM


def grid() -> tuple[np.ndarray, np.ndarray]:
    array = np.random.default_rng(1).normal(500, 90, (12, 10, 6)).astype(np.float32)
    affine = np.array([[0.8, 0, 0, -5], [0, 0.9, 0, 7], [0, 0, 2.5, 3], [0, 0, 0, 1.0]])
    return array, affine


def itk_bytes(tmp_path: Path, names: list[str]) -> dict[str, bytes]:
    array, _ = grid()
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetSpacing([0.8, 0.9, 2.5])
    image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])  # RAS as LPS
    image.SetOrigin([5, -7, 3])
    sitk.WriteImage(image, str(tmp_path / names[0]))
    return {f"case/{n}": (tmp_path / n).read_bytes() for n in names}


@pytest.mark.parametrize("names", [["v.nrrd"], ["v.mha"], ["v.mhd", "v.raw"], ["v.nhdr", "v.raw"], ["v.nii"], ["v.hdr", "v.img"]])
def test_a_volume_keeps_its_geometry_in_every_format(archive: Archive, tmp_path: Path, names: list[str]) -> None:
    done = taken(archive, itk_bytes(tmp_path, names))
    (series,) = done.studies[0].series
    assert series.shape == [12, 10, 6] and series.spacing_mm == [0.8, 0.9, 2.5]
    volume = archive.volume(series.id)
    np.testing.assert_allclose(volume.oriented("RAS").array, Volume(*grid(), "axial").oriented("RAS").array, atol=1e-2)
    np.testing.assert_allclose(volume.oriented("RAS").affine, grid()[1], atol=1e-3)
    again = archive.volume(series.id)  # from the cache
    np.testing.assert_array_equal(volume.array, again.array)


def test_analyze_is_taken_with_a_doubt_about_sides(archive: Archive, tmp_path: Path) -> None:
    nib.save(nib.AnalyzeImage(grid()[0], grid()[1]), tmp_path / "v.hdr")
    files = {n: (tmp_path / n).read_bytes() for n in ("v.hdr", "v.img")}
    (series,) = taken(archive, files).studies[0].series
    assert series.geometry == "warning" and any("left and right" in w for w in series.warnings)


def test_half_a_pair_is_refused_by_name(archive: Archive, tmp_path: Path) -> None:
    files = itk_bytes(tmp_path, ["v.mhd", "v.raw"])
    (header, voxels) = files
    assert "v.raw" in taken(archive, {header: files[header]}).rejected[0].reason
    assert "without a header" in taken(archive, {voxels: files[voxels]}).rejected[0].reason
    evil = files[header].replace(b"v.raw", b"/etc/passwd")
    assert "outside its folder" in taken(archive, {header: evil}).rejected[0].reason
    assert not [p for p in archive.objects.root.rglob("*") if p.is_file()], "nothing may be half-stored"


def test_a_header_that_promises_too_much_is_refused_before_it_is_read(archive: Archive, tmp_path: Path) -> None:
    for name, old, new in (
        ("v.nrrd", b"sizes: 12 10 6", b"sizes: 32000 32000 900"),
        ("v.mha", b"DimSize = 12 10 6", b"DimSize = 32000 32000 900"),
    ):
        data = itk_bytes(tmp_path, [name])[f"case/{name}"]
        assert old in data
        assert "impossible size" in taken(archive, {name: data.replace(old, new)}).rejected[0].reason
    assert not [p for p in archive.objects.root.rglob("*") if p.is_file()]


def test_a_nifti_of_several_volumes_becomes_as_many_series(archive: Archive) -> None:
    array = np.random.default_rng(1).normal(500, 90, (8, 8, 4, 3)).astype(np.float32)
    done = taken(archive, {"bold.nii.gz": gzip.compress(nib.Nifti1Image(array, np.eye(4)).to_bytes())})
    assert [s.description for s in done.studies[0].series] == [f"bold, volume {n} of 3" for n in (1, 2, 3)]
    np.testing.assert_allclose(archive.volume(done.studies[0].series[2].id).array, array[..., 2])


def test_the_niftis_of_one_upload_are_one_study_and_of_two_folders_two(archive: Archive) -> None:
    one, two = (nifti.to_bytes(Volume(grid()[0] + n, grid()[1])) for n in range(2))
    assert len(taken(archive, {"c/images/t1.nii.gz": one, "c/labels/t2.nii.gz": two}).studies) == 1
    apart = taken(Archive(archive.root.parent / "b"), {"anna/t1.nii.gz": one, "bert/t1.nii.gz": two}, Hints())
    assert len(apart.studies) == 2 and len(apart.patient_ids) == 2
    assert {tuple(a.missing) for a in apart.asks} == {("patient_id", "study_date")}


def test_real_nrrd(archive: Archive) -> None:
    folder = shared("data", "radiomics_nrrd_pyradiomics")
    done = taken(archive, {p.name: p.read_bytes() for p in folder.glob("*.nrrd")}, Hints("P1", "2026-01-02", "MR"))
    assert not done.rejected
    series = {s.header["file"]: s for s in archive.study(done.studies[0].id).series}
    header = nrrd.read_header(str(folder / "brain1_image.nrrd"))
    np.testing.assert_allclose(series["brain1_image.nrrd"].spacing_mm, np.abs(np.diag(header["space directions"])), rtol=1e-3)
    assert series["brain1_label.nrrd"].modality == "SEG" and series["brain1_image.nrrd"].body_part == "BRAIN"


def test_a_tiff_and_a_colour_picture_have_no_geometry(archive: Archive) -> None:
    pages = [Image.fromarray(np.full((20, 30), level, np.uint8)) for level in (10, 200)]
    tiff, png = io.BytesIO(), io.BytesIO()
    pages[0].save(tiff, "TIFF", save_all=True, append_images=pages[1:])
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (20, 30, 3), np.uint8)).save(png, "PNG")
    done = taken(archive, {"a.tif": tiff.getvalue(), "b.png": png.getvalue()})
    shapes = {s.description: (s.shape, s.geometry) for s in done.studies[0].series}
    assert shapes == {"a": ([30, 20, 2], "warning"), "b": ([30, 20, 1], "warning")}
    colour = archive.volume(next(s.id for s in done.studies[0].series if s.description == "b"))
    assert Image.open(io.BytesIO(render.png(colour, 0))).mode == "RGB"
    assert "modality" in done.asks[0].missing


# Words


def docx_bytes() -> bytes:
    document, buffer = Document(), io.BytesIO()
    document.add_paragraph("EXAM: MR brain")
    document.add_paragraph("FINDINGS: A mass of 31 mm.")
    table = document.add_table(1, 2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "Ki-67", "20 %"
    document.save(buffer)
    return buffer.getvalue()


def pdf_bytes(text: bool = True) -> bytes:
    """A page with a line of text, or with a picture of one (a scan)."""
    if not text:
        from PIL import ImageDraw, ImageFont

        page, buffer = Image.new("L", (1200, 400), 255), io.BytesIO()
        ImageDraw.Draw(page).text((40, 120), "IMPRESSION: Glioma of 31 mm", 0, ImageFont.load_default(60))
        page.save(buffer, "PDF")
        return buffer.getvalue()
    stream = b"BT /F1 12 Tf 40 700 Td (IMPRESSION: Glioma of 31 mm.) Tj ET"
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
               b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
               b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
               b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>"]  # fmt: skip
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj" % number + body + b"endobj\n"
    table = b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % p for p in places)
    return out + table + b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % len(out)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("r.docx", docx_bytes(), ["A mass of 31 mm", "Ki-67 | 20 %"]),
        ("r.pdf", pdf_bytes(), ["Glioma of 31 mm"]),
        ("scan.pdf", pdf_bytes(text=False), ["Glioma of 31 mm"]),
        ("r.rtf", rb"{\rtf1\ansi FINDINGS: Gr\'f6\'dfe 31 mm.\par IMPRESSION: Glioma.}", ["Größe 31 mm", "IMPRESSION: Glioma"]),
    ],
)
def test_a_report_as_a_document(archive: Archive, name: str, data: bytes, says: list[str]) -> None:
    done = taken(archive, {name: data})
    assert not done.rejected
    text = archive.report(done.records[0].id).text
    assert all(s in text for s in says)


@pytest.mark.parametrize(
    ("name", "data"),
    [("r.pdf", b"%PDF-1.4 nothing"), ("r.docx", docx_bytes()[:900]), ("r.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"x" * 99)],
)
def test_a_broken_document_is_refused(archive: Archive, name: str, data: bytes) -> None:
    assert taken(archive, {name: data}).rejected[0].reason


ORU = rb"""MSH|^~\&|RIS|H|EHR|H|20240301120000||ORU^R01|1|P|2.5
PID|1||12345^^^H^MR||DOE^JANE||19600101|F
OBR|1|||24627-2^CT Chest^LN|||20240229101500
OBX|1|TX|FIND^Findings||Nodule in the right upper lobe\.br\measuring 8 mm \T\ stable.
OBX|2|TX|IMP^Impression||Stable nodule.
OBR|2|||CREA^Creatinine|||20240228
OBX|1|NM|2160-0^Creatinine^LN||0.9|mg/dL|||||F|||20240228
"""


def test_an_hl7_result_is_a_report_and_values(archive: Archive) -> None:
    done = taken(archive, {"m.hl7": ORU}, Hints())
    assert done.patient_ids == {"12345"}
    (report,) = archive.reports("12345")
    assert (report.title, report.date) == ("CT Chest", "2024-02-29") and "measuring 8 mm & stable" in report.text
    (item,) = archive.items("12345")
    assert (item.name, item.value, item.unit, item.date) == ("Creatinine", 0.9, "mg/dL", "2024-02-28")
    assert archive.patient("12345").birth_date == "1960-01-01"
    assert "SIU" in taken(archive, {"m.hl7": ORU.replace(b"ORU^R01", b"SIU^S12")}).rejected[0].reason


def test_what_an_hl7_message_says_is_logged_nowhere(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    taken(archive, {"m.hl7": ORU.replace(rb"\.br\measuring", b"\\Jane Doe\\measuring \\Xzz\\")}, Hints())
    assert "Jane" not in caplog.text and not caplog.records


def test_ndjson_is_kept_patient_by_patient(archive: Archive) -> None:
    folder = shared("data", "fhir_bulk_notes")
    done = archive.add(from_paths(sorted(folder.glob("*.ndjson"))))
    assert not done.rejected and len(archive.patient_ids()) == 10
    assert any(archive.items(p) for p in archive.patient_ids()) and any(archive.reports(p) for p in archive.patient_ids())
    named = taken(Archive(archive.root.parent / "b"), {"p.ndjson": next(folder.glob("Condition*")).read_bytes()})
    assert "patients" in named.rejected[0].reason


# DICOM that is no plain image


def test_every_odd_file_decodes_as_pydicom_says_or_says_why_not(archive: Archive) -> None:
    """The way that pixels are read here (in place, or by the plug-ins) against pydicom's own, for every odd file."""
    codecs.install()
    compared = undecodable = 0
    for path in sorted(p for p in shared("data", "dicom_odd_pydicom").rglob("*") if p.is_file()):
        data = path.read_bytes()
        try:
            place = dicom.read_instance(data).place
        except Refused as refusal:
            assert str(refusal), path.name
            continue
        if not place["frames"]:
            continue
        order = [(0, f) for f in range(place["frames"])]
        try:
            ours = pixels.load([path], [place], order)
        except Refused as refusal:
            assert "decoded" in str(refusal), path.name
            undecodable += 1
            continue
        dataset = pydicom.dcmread(path, force=True)
        dataset.file_meta = pixels.opened(data).file_meta
        theirs = pixel_array(dataset)
        if ours.rgb is not None:
            if place["photometric"] != "PALETTE COLOR":
                shift = 8 * (theirs.dtype.itemsize - 1)
                np.testing.assert_array_equal(ours.rgb, (theirs >> shift).reshape(ours.rgb.shape), path.name)
        else:
            scale = float(dataset.get("DoseGridScaling") or 1)
            np.testing.assert_allclose(
                ours.array, (apply_modality_lut(theirs, dataset) * scale).reshape(ours.array.shape), rtol=1e-5, err_msg=path.name
            )
        compared += 1
    assert compared == 90 and undecodable <= 2


def test_a_mosaic_is_taken_apart(archive: Archive) -> None:
    """A real Siemens mosaic, of nibabel's own tests."""
    folder = Path(nib.__file__).parent / "nicom" / "tests" / "data"
    done = archive.add(from_paths([folder / "siemens_dwi_1000.dcm.gz"]))
    (series,) = done.studies[0].series
    with gzip.open(folder / "siemens_dwi_1000.dcm.gz") as file:
        wrapper = nib.nicom.dicomwrappers.wrapper_from_file(file)
    assert series.shape == [128, 128, 48] and series.sequence == "DWI"
    theirs = wrapper.get_data()  # [row, column, slice] in LPS
    volume = archive.volume(series.id)
    np.testing.assert_array_equal(volume.array, theirs.transpose(1, 0, 2))
    ours = volume.affine @ [5, 7, 11, 1]
    np.testing.assert_allclose(ours, np.diag([-1, -1, 1, 1]) @ wrapper.affine @ [7, 5, 11, 1], atol=1e-2)


def test_a_structured_report_becomes_text_and_values(archive: Archive) -> None:
    folder = shared("data", "dicom_seg_sr_dcmqi")
    done = archive.add(from_paths([p for p in sorted(folder.rglob("*")) if p.suffix == ".dcm"]))
    reports = [r for p in done.patient_ids for r in archive.reports(p)]
    items = [i for p in done.patient_ids for i in archive.items(p)]
    assert any("IMAGING MEASUREMENTS" in r.text.upper() for r in reports)
    assert any(i.unit and isinstance(i.value, float) and "SR" in i.resource for i in items)
    study = next(s for s in done.studies if any(q.modality == "SR" for q in s.series))
    archive.delete(study.id)
    assert len([r for p in done.patient_ids for r in archive.reports(p)]) < len(reports)


def test_segments_lie_on_the_grid_of_their_source(archive: Archive) -> None:
    folder = shared("data", "dicom_seg_sr_dcmqi", "segmentations")
    done = archive.add(from_paths([folder]))
    series = [s for study in done.studies for s in study.series]
    image = next(s for s in series if s.modality == "CT")
    liver = next(s for s in series if s.modality == "SEG" and "iver" in s.description)
    mask, volume = archive.volume(liver.id), archive.volume(image.id)
    assert set(np.unique(mask.array)) <= {0, 1} and mask.array.any()
    np.testing.assert_allclose(mask.affine[:3, :3], volume.affine[:3, :3], atol=1e-3)


def contours(files: list[bytes], corners: list[tuple[float, float, float]]) -> bytes:
    """An RT structure set with one closed contour (LPS mm) on the series of `files`."""
    source = pydicom.dcmread(io.BytesIO(files[0]))
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    one.StudyInstanceUID, one.SeriesInstanceUID, one.PatientID, one.Modality = (
        source.StudyInstanceUID,
        generate_uid(),
        source.PatientID,
        "RTSTRUCT",
    )
    roi, region, contour, series, study, frame = (Dataset() for _ in range(6))
    roi.ROINumber, roi.ROIName = 7, "GTV"
    contour.ContourGeometricType, contour.ContourData = "CLOSED_PLANAR", [v for c in corners for v in c]
    region.ReferencedROINumber, region.ContourSequence = 7, Sequence([contour])
    series.SeriesInstanceUID = source.SeriesInstanceUID
    study.RTReferencedSeriesSequence = Sequence([series])
    frame.RTReferencedStudySequence = Sequence([study])
    one.StructureSetROISequence, one.ROIContourSequence = Sequence([roi]), Sequence([region])
    one.ReferencedFrameOfReferenceSequence = Sequence([frame])
    return saved(one)


def test_contours_become_a_label_map_on_their_series(archive: Archive) -> None:
    files = slices(5, np.array([[0.5, 0, 0, 10], [0, 0.5, 0, 20], [0, 0, 2, -4], [0, 0, 0, 1]]), (40, 40, 5))
    square = [(14.1, 24.1, 0.0), (18.9, 24.1, 0.0), (18.9, 28.9, 0.0), (14.1, 28.9, 0.0)]  # slice 2, columns and rows 9 to 17
    done = taken(archive, {f"{n}": f for n, f in enumerate([*files, contours(files, square)])}, Hints())
    structures = next(s for s in done.studies[0].series if s.modality == "RTSTRUCT")
    assert "GTV" in structures.warnings[0]
    labels = archive.volume(structures.id).array
    assert labels.shape == (40, 40, 5) and set(np.unique(labels)) == {0, 1}
    where = np.argwhere(labels)
    assert where.min(0).tolist() == [9, 9, 2] and where.max(0).tolist() == [17, 17, 2] and len(where) == 81


def test_an_encapsulated_pdf_is_a_report(archive: Archive, slice_file: bytes) -> None:
    one = pydicom.dcmread(io.BytesIO(slice_file))
    for keyword in ("Rows", "Columns", "PixelData", "BitsAllocated"):
        delattr(one, keyword)
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.104.1"
    one.Modality, one.DocumentTitle, one.MIMETypeOfEncapsulatedDocument = "DOC", "MR report", "application/pdf"
    one.EncapsulatedDocument = pdf_bytes()
    done = taken(archive, {"a": saved(one)})
    assert (done.records[0].title, done.studies[0].series[0].modality) == ("MR report", "DOC")
    assert "Glioma of 31 mm" in archive.report(done.records[0].id).text


def test_suv_by_body_weight(archive: Archive) -> None:
    tracer = Dataset()
    tracer.RadionuclideTotalDose, tracer.RadionuclideHalfLife, tracer.RadiopharmaceuticalStartTime = 4e8, 6586.2, "090000"
    values = {"Modality": "PT", "Units": "BQML", "CorrectedImage": ["ATTN", "DECY"], "DecayCorrection": "START", "PatientWeight": 80.0,
              "SeriesDate": "20260102", "SeriesTime": "100000", "RescaleSlope": 2.0, "RescaleIntercept": 0.0,
              "RadiopharmaceuticalInformationSequence": Sequence([tracer])}  # fmt: skip
    done = taken(archive, {str(n): f for n, f in enumerate(changed(slices(1000), "1.2.3.4", **values))})
    (series,) = done.studies[0].series
    assert series.unit == "g/mL" and series.geometry == "ok"
    expected = 1000 * 2 * 80_000 / (4e8 * 2 ** (-3600 / 6586.2))
    np.testing.assert_allclose(archive.volume(series.id).array, expected, rtol=1e-5)
    other = Archive(archive.root.parent / "b")
    (doubted,) = (
        taken(other, {str(n): f for n, f in enumerate(changed(slices(9), "1.2.3.4", **{**values, "PatientWeight": None}))})
        .studies[0]
        .series
    )
    assert "weight" in doubted.warnings[0] and doubted.unit == "BQML"


def test_windows_and_inverted_greys_are_shown_by_the_standard(archive: Archive) -> None:
    array = np.arange(64).reshape(8, 8, 1).astype(np.uint16)
    files = dicom_series(array, np.eye(4), description="x")
    values = {
        "WindowCenter": 32,
        "WindowWidth": 32,
        "PhotometricInterpretation": "MONOCHROME1",
        "Modality": "CT",
        "RescaleIntercept": 0,
        "RescaleSlope": 1,
    }
    (series,) = taken(archive, {"0": changed(files, "1.2.3.4", **values)[0]}).studies[0].series
    shown = np.asarray(Image.open(io.BytesIO(render.png(archive.volume(series.id), 0))), float)
    # PS3.3 C.11.2.1.2.1: y = ((x - (c - 0.5)) / (w - 1) + 0.5) * range, inverted for MONOCHROME1
    expected = 255 - np.clip((array[:, :, 0].T - 31.5) / 31 + 0.5, 0, 1) * 255
    np.testing.assert_allclose(shown, expected, atol=1)


def test_projections_and_ultrasound_say_what_their_millimetres_are_worth(archive: Archive, slice_file: bytes) -> None:
    region = Dataset()
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.02, 0.025
    kinds = {"MG": {"ImagerPixelSpacing": [0.07, 0.07]}, "US": {"SequenceOfUltrasoundRegions": Sequence([region])}}
    for number, (modality, values) in enumerate(kinds.items()):
        one = pydicom.dcmread(io.BytesIO(slice_file))
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            delattr(one, keyword)
        one.Modality, one.SOPInstanceUID, one.SeriesInstanceUID = modality, generate_uid(), f"1.2.{number + 1}"
        for keyword, value in values.items():
            setattr(one, keyword, value)
        taken(archive, {modality: saved(one)})
    (study,) = archive.studies()
    series = {s.modality: s for s in study.series}
    assert series["MG"].pixel_mm == [0.07, 0.07] and "magnification" in series["MG"].warnings[0]
    assert series["US"].pixel_mm == [0.2, 0.25] and "ultrasound region" in series["US"].warnings[0]
    assert all(s.spacing_mm is None and s.geometry == "warning" for s in series.values())


def test_an_object_without_pixels_is_kept_as_it_came(archive: Archive) -> None:
    path = shared("data", "dicom_odd_pydicom", "rtplan.dcm")
    done = archive.add([Incoming("plan", path.read_bytes())])
    (series,) = done.studies[0].series
    assert series.modality == "RTPLAN" and "kept as it came" in series.warnings[0] and series.shape == []
    assert archive.originals(done.studies[0].id)[0].path.read_bytes() == path.read_bytes()


def encoded(array: np.ndarray, name: str) -> tuple[str, bytes]:
    """One frame's code stream by imagecodecs, and its transfer syntax."""
    import imagecodecs

    kinds = {
        "JPEG lossless": (uid.JPEGLosslessSV1, lambda: imagecodecs.ljpeg_encode(array, bitspersample=12)),
        "JPEG-LS": (uid.JPEGLSLossless, lambda: imagecodecs.jpegls_encode(array)),
        "JPEG 2000": (
            uid.JPEG2000Lossless,
            lambda: imagecodecs.jpeg2k_encode(array, level=0, codecformat="j2k", bitspersample=12),
        ),
        "HTJ2K": (uid.HTJ2KLossless, lambda: imagecodecs.htj2k_encode(array, reversible=True)),
        "RLE": (uid.RLELossless, lambda: b""),
        "deflated": (uid.DeflatedExplicitVRLittleEndian, lambda: b""),
        "big endian": (uid.ExplicitVRBigEndian, lambda: b""),
        "implicit": (uid.ImplicitVRLittleEndian, lambda: b""),
    }
    syntax, made = kinds[name]
    return syntax, bytes(made())


@pytest.mark.parametrize("name", ["JPEG lossless", "JPEG-LS", "JPEG 2000", "HTJ2K", "RLE", "deflated", "big endian", "implicit"])
def test_a_series_reads_the_same_in_every_lossless_syntax(archive: Archive, name: str) -> None:
    array = np.random.default_rng(5).integers(0, 4095, (24, 32, 3)).astype(np.uint16)
    files = []
    for k, data in enumerate(dicom_series(array, STEP)):
        one = pydicom.dcmread(io.BytesIO(data))
        one.BitsStored, one.HighBit = 12, 11
        syntax, stream = encoded(np.ascontiguousarray(array[:, :, k].T), name)
        if stream:
            one.PixelData = encapsulate([stream])
            one["PixelData"].VR, one["PixelData"].is_undefined_length = "OB", True
        elif name == "RLE":
            one.compress(uid.RLELossless)
        elif name == "big endian":
            one.PixelData = array[:, :, k].T.astype(">u2").tobytes()
        one.file_meta.TransferSyntaxUID = syntax
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, one, enforce_file_format=True, force_encoding=False)
        files.append(buffer.getvalue())
    done = taken(archive, {str(n): f for n, f in enumerate(files)}, Hints())
    (series,) = done.studies[0].series
    assert series.geometry == "ok" and not done.rejected
    np.testing.assert_array_equal(archive.volume(series.id).array, array)
    again = archive.volume(series.id)
    np.testing.assert_array_equal(again.array, array)
