"""De-identified copies: nobody in the header or the pixels, the same pseudonyms every time, faces off, and the way back by the vault."""

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from agent.testing import dicom_series
from knowledge.errors import NotFound, Refused
from knowledge.studies.archive import Archive
from knowledge.studies.deidentify import faces, header, ocr, profile
from knowledge.studies.deidentify.vault import Vault
from knowledge.studies.export import OnImport, options_of, write_zip
from knowledge.studies.unpack import Incoming, from_bytes, from_paths
from knowledge.studies.volume import Volume
from tests.conftest import shared
from tests.knowledge.test_parts import STEP, changed, saved


def exported(archive: Archive, study_id: str, name: str, *more: str) -> list[Dataset]:
    buffer = io.BytesIO()
    write_zip(archive, study_id, buffer, options_of(name, more))
    with zipfile.ZipFile(buffer) as packed:
        return [pydicom.dcmread(io.BytesIO(packed.read(n))) for n in packed.namelist()]


def telling() -> bytes:
    """An instance that names people in the odd places too."""
    one = pydicom.dcmread(
        io.BytesIO(dicom_series(np.ones((8, 8, 1), np.uint16), STEP, patient_id="QZ4711QZ", name="Muster^Erika")[0])
    )
    one.PatientBirthDate, one.StudyDate, one.SeriesDate, one.StudyTime = "19600101", "20260102", "20260103", "101500"
    one.ReferringPhysicianName, one.InstitutionName, one.AccessionNumber = "Quack^Hans", "Klinikum Nirgendwo", "A998877"
    one.SeriesDescription, one.StudyDescription = "T1 axial Muster 02.01.2026", "MR for Dr. Quack, Erika"
    one.PatientComments, one.PatientAge, one.PatientWeight = "Erika calls back at 0123 456789", "065Y", 70
    inner = Dataset()
    inner.PatientName, inner.StudyInstanceUID, inner.PersonName = "Muster^Erika", "1.2.3", "Muster^Erika"
    one.RequestAttributesSequence = Sequence([inner])
    one.ReferencedStudySequence = Sequence([inner])
    other = Dataset()
    other.ReferencedSOPClassUID, other.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", "1.2.3"
    one.ReferencedImageSequence = Sequence([other])
    block = one.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "1000")
    block.add_new(0x08, "LO", "Muster private")
    one.private_block(0x0011, "UNKNOWN VENDOR", create=True).add_new(1, "LO", "Erika Muster")
    return saved(one)


@pytest.mark.parametrize("name", ["basic", "research"])
def test_nobody_is_left_in_the_header(archive: Archive, name: str) -> None:
    (study,) = archive.add([Incoming("a", telling())]).studies
    (one,) = exported(archive, study.id, name)
    raw = re.sub(rb"2\.25\.\d+", b"", saved(one).lower())  # new UIDs are random digits
    for word in (
        b"muster",
        b"erika",
        b"quack",
        b"hans",
        b"nirgendwo",
        b"a998877",
        b"QZ4711QZ",
        b"0123",
        b"19600101",
        b"02.01.2026",
        b"20260102",
    ):
        assert word not in raw, word
    assert header.left_behind(one, header.identifying_words(pydicom.dcmread(io.BytesIO(telling())))) == []
    assert one.PatientIdentityRemoved == "YES" and one.BurnedInAnnotation == "NO"
    codes = {c.CodeValue for c in one.DeidentificationMethodCodeSequence}
    assert {"113100", "113101"} <= codes and ("113107" in codes) == (name == "research")
    assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID and str(one.SOPInstanceUID).startswith("2.25.")
    if name == "research":
        assert "T1 axial" in one.SeriesDescription and one.PatientWeight == 70 and one.PatientAge == "065Y"
        assert one.private_block(0x0019, "SIEMENS MR HEADER")[0x0C].value == 1000
        assert len(one.StudyDate) == 8 and one.StudyDate < "20260102"
    else:
        assert not any(e.tag.is_private for e in one) and "SeriesDescription" not in one and not one.StudyDate


def test_shifts_and_uids_agree_across_studies_and_times(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "v")
    data = telling()
    made = [
        header.deidentify(pydicom.dcmread(io.BytesIO(data)), profile.PROFILES["research"], v)
        for v in (vault, Vault(tmp_path / "v"))
    ]
    assert made[0].StudyInstanceUID == made[1].StudyInstanceUID and made[0].PatientID == made[1].PatientID
    between = np.datetime64(f"{made[0].SeriesDate[:4]}-{made[0].SeriesDate[4:6]}-{made[0].SeriesDate[6:]}") - np.datetime64(
        f"{made[0].StudyDate[:4]}-{made[0].StudyDate[4:6]}-{made[0].StudyDate[6:]}"
    )
    assert between == np.timedelta64(1, "D"), "days between two dates stay"
    assert made[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID == vault.uid("1.2.3"), "references follow their UIDs"
    assert Vault(tmp_path / "w").patient("QZ4711QZ") != made[0].PatientID
    assert vault.original(made[0].PatientID) == "QZ4711QZ" and vault.original(vault.uid("1.2.3")) == "1.2.3"
    with pytest.raises(NotFound):
        Vault(tmp_path / "w").original(made[0].PatientID)
    stored = b"".join(p.read_bytes() for p in (tmp_path / "v").iterdir())
    assert b"QZ4711QZ" not in stored and all(p.stat().st_mode & 0o077 == 0 for p in (tmp_path / "v").iterdir())


def test_options_keep_what_they_name(archive: Archive) -> None:
    data = telling()
    (study,) = archive.add([Incoming("a", data)]).studies
    source = pydicom.dcmread(io.BytesIO(data))
    (one,) = exported(archive, study.id, "basic", "uids", "full_dates", "institution")
    assert one.StudyInstanceUID == study.study_instance_uid and one.StudyDate == source.StudyDate
    assert one.InstitutionName == source.InstitutionName and one.LongitudinalTemporalInformationModified == "UNMODIFIED"
    assert {"113110", "113106", "113112"} <= {c.CodeValue for c in one.DeidentificationMethodCodeSequence}
    with pytest.raises(Refused, match="options"):
        options_of("basic", ["everything"])


def test_every_attribute_of_the_profile_is_handled() -> None:
    table = profile._table()
    assert len(table) > 640
    for options in (frozenset(), *profile.PROFILES.values(), frozenset(profile.Option)):
        assert {profile.action(int(t, 16), options) for t in table} <= set("XZDUCK")
    assert profile.action(0x00100010, frozenset()) == "Z" and profile.action(0x0020000D, frozenset({profile.Option.UIDS})) == "K"


def test_real_headers_and_burned_in_names(archive: Archive) -> None:
    folder = shared("data", "dicom_phi_burnedin")
    done = archive.add(from_paths([folder / "2_ORIGINAL.dcm", folder / "RGB_ORIGINAL.dcm"]))
    words = set().union(*(header.identifying_words(pydicom.dcmread(folder / n)) for n in ("2_ORIGINAL.dcm", "RGB_ORIGINAL.dcm")))
    long = [w.encode() for w in words if len(w) > 4]
    for study in done.studies:
        for name in ("basic", "research"):
            (one,) = exported(archive, study.id, name)
            assert header.left_behind(one, words) == []
            raw = re.sub(rb"2\.25\.\d+", b"", saved(one).lower())  # new UIDs are random digits
            assert not [w for w in long if w in raw]
            if study.modalities == ["CT"]:  # the one with text in it
                picture = np.clip(one.pixel_array.astype(float) / one.pixel_array.max() * 255, 0, 255).astype(np.uint8)
                assert not [
                    t for t in ocr.lines_in(picture) if set(t.lower().replace(":", " ").split()) & {"kaufman", "scott", "dob"}
                ]


def test_made_text_is_found_wherever_it_stands(archive: Archive) -> None:
    """Names drawn on real MR slices in several sizes and places, light on dark and dark on light."""
    paths = sorted(shared("data", "dicom_mr_brain_defaced").glob("*.dcm"))[20:60:5]
    places, covered = [(6, 6), (140, 230), (30, 120), (100, 60)], 0
    for number, path in enumerate(paths):
        array = pydicom.dcmread(path).pixel_array.astype(float)
        grey = np.clip(array / np.percentile(array, 99.5) * 255, 0, 255).astype(np.uint8)
        picture = Image.fromarray(grey)
        box = ImageDraw.Draw(picture).textbbox(places[number % 4], "MUELLER ANNA", font=ImageFont.load_default(10 + number))
        ImageDraw.Draw(picture).text(places[number % 4], "MUELLER ANNA", 255, font=ImageFont.load_default(10 + number))
        mask = ocr.text_mask(np.asarray(picture))
        covered += bool(mask[box[1] : box[3], box[0] : min(box[2], 256)].mean() > 0.9)
    assert covered == len(paths)


def test_words_are_left_out_of_a_de_identified_export(archive: Archive) -> None:
    done = archive.add(from_paths([shared("data", "dicom_odd_pydicom", "reportsi.dcm")]))
    buffer = io.BytesIO()
    result = write_zip(archive, done.studies[0].id, buffer, options_of("research"))
    assert result.files == 0 and "words" in result.left_out[0].reason
    originals = io.BytesIO()
    assert write_zip(archive, done.studies[0].id, originals, None).files == 1
    with pytest.raises(Refused, match="no profile"):
        options_of("soft")


def test_an_archive_that_takes_de_identified_data_only(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "archive" / "vault")
    archive = Archive(tmp_path / "archive", clean=OnImport(options_of("research"), vault))
    files = [Incoming("Muster_Erika.dcm", telling()), Incoming("Muster_report.txt", b"FINDINGS: Erika Muster has a mass.")]
    done = archive.add(files)
    assert "de-identified" in done.rejected[0].reason and done.patient_ids == {vault.patient("QZ4711QZ")}
    kept = b"".join(p.read_bytes() for p in archive.root.rglob("*") if p.is_file()).lower()
    assert b"muster" not in kept and b"erika" not in kept and b"QZ4711QZ" not in kept
    again = archive.add(files)
    assert [s.id for s in again.studies] == [s.id for s in done.studies] and not again.conflicts


def head_phantom(spacing: tuple[float, float, float]) -> tuple[Volume, np.ndarray, np.ndarray]:
    """A head with a nose and a brain inside: the volume (LPS grid), where the brain is, and where the nose."""
    shape = tuple(int(n / s) for n, s in zip((200, 240, 200), spacing, strict=True))
    x, y, z = (
        np.arange(n)[tuple(slice(None) if a == i else None for i in range(3))] * s
        for a, (n, s) in enumerate(zip(shape, spacing, strict=True))
        for i in [a]
    )
    centred = (x - 100), (y - 125), (z - 100)
    head = (centred[0] / 75) ** 2 + (centred[1] / 95) ** 2 + (centred[2] / 90) ** 2 <= 1
    brain = (centred[0] / 58) ** 2 + (centred[1] / 77) ** 2 + (centred[2] / 72) ** 2 <= 1
    nose = ((centred[0] / 14) ** 2 + ((y - 28) / 22) ** 2 + ((z - 85) / 20) ** 2 <= 1) & ~head
    array = np.where(brain, 900, np.where(head | nose, 500, 0)) + np.random.default_rng(0).normal(0, 8, shape)
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    return Volume(array.astype(np.float32), affine), brain, nose


@pytest.mark.parametrize("spacing", [(2.5, 2.5, 2.5), (2.0, 2.0, 4.0)])
def test_a_face_goes_and_the_brain_stays(spacing: tuple[float, float, float]) -> None:
    volume, brain, nose = head_phantom(spacing)
    layer = faces.face_of(volume)
    assert layer[nose].mean() > 0.9 and not layer[brain].any()
    turned = volume.oriented("RSA")
    np.testing.assert_array_equal(Volume(faces.face_of(turned).astype(np.uint8), turned.affine).oriented("LPS").array > 0, layer)
    body = Volume(
        np.where(np.add.outer(np.add.outer(np.arange(200) ** 0, np.arange(200) ** 0), np.arange(40)) > 0, 500, 0).astype(
            np.float32
        ),
        np.diag([-2, -2, 3, 1.0]),
    )
    with pytest.raises(Refused, match="head"):
        faces.face_of(body)


def test_a_defaced_export_keeps_the_brains_values(archive: Archive) -> None:
    volume, brain, nose = head_phantom((4.0, 4.0, 4.0))
    files = dicom_series(np.clip(volume.array, 0, None).astype(np.uint16), np.diag([4.0, 4, 4, 1]), description="T1")
    files = changed(files, "1.2.3.9", ImageType=["ORIGINAL", "PRIMARY"])  # original slices: a sample is looked at for text
    (study,) = archive.add([Incoming(str(n), f) for n, f in enumerate(files)]).studies
    made = exported(archive, study.id, "research", "faces")
    assert all(m.RecognizableVisualFeatures == "NO" for m in made)
    again = Archive(archive.root.parent / "again")
    (copy,) = again.add(i for n, m in enumerate(made) for i in from_bytes(str(n), saved(m))).studies
    ours, theirs = archive.volume(study.series[0].id).array, again.volume(copy.series[0].id).array
    np.testing.assert_array_equal(ours[brain], theirs[brain])
    assert (theirs[nose] == theirs.min()).mean() > 0.9
