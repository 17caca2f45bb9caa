"""A draft or a signed report as text, PDF, DOCX, FHIR DiagnosticReport, DICOM SR and encapsulated PDF; a draft says so on each of them."""

import base64
import io
from collections.abc import Callable
from typing import Any

from knowledge.errors import Refused
from knowledge.evidence import ImageRef, Kind
from knowledge.reporting.drafts import Draft
from knowledge.reporting.templates import PARTS
from knowledge.studies.model import Patient, Study
from knowledge.studies.wado import written
from tools.export import fhir
from tools.reporting.phrases import phrase


def banner(draft: Draft) -> str:
    """Whether it is signed, and by whom."""
    if draft.signature is None:
        return phrase(draft.language, "draft")
    return phrase(draft.language, "signed", name=draft.signature.name, at=draft.signature.at[:10])


def _sections(draft: Draft) -> list[tuple[str, list[str]]]:
    return [(phrase(draft.language, p), [s.text for s in draft.part(p)]) for p in PARTS if draft.part(p)]


def as_text(draft: Draft, patient: Patient, study: Study | None) -> bytes:
    """Plain text, UTF-8; a report that this house reads again."""
    head = [banner(draft), f"EXAMINATION: {draft.title}", *([f"DATE: {draft.study_date}"] if draft.study_date else [])]
    body = [f"{name}:\n" + "\n".join(lines) for name, lines in _sections(draft)]
    return ("\n".join(head) + "\n\n" + "\n\n".join(body) + "\n").encode()


def as_pdf(draft: Draft, patient: Patient, study: Study | None) -> bytes:
    """PDF/1.4 on A4 (reportlab); the banner stands on every page."""
    from xml.sax.saxutils import escape

    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.pdfbase.pdfmetrics import registerFont
    from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer

    font = "Helvetica"
    if draft.language == "zh":
        font = "STSong-Light"
        registerFont(UnicodeCIDFont(font))
    plain = ParagraphStyle("plain", fontName=font, fontSize=10, leading=14)
    big = ParagraphStyle("title", parent=plain, fontSize=15, leading=20)
    small = ParagraphStyle("head", parent=plain, fontSize=9, leading=13, spaceBefore=8, textColor="#444444")

    def _on_page(canvas: Any, page: Any) -> None:
        canvas.saveState()
        canvas.setFont(font, 8)
        canvas.drawString(56, 30, banner(draft))
        canvas.drawRightString(A4[0] - 56, 30, str(page.page))
        if draft.signature is None:
            canvas.setFont(font, 60)
            canvas.setFillGray(0.9)
            canvas.translate(A4[0] / 2, A4[1] / 2)
            canvas.rotate(45)
            canvas.drawCentredString(0, 0, "草稿" if draft.language == "zh" else "DRAFT")
        canvas.restoreState()

    story: list[Any] = [Paragraph(escape(draft.title), big), Paragraph(escape(_examined(draft, patient)), plain), Spacer(1, 6)]
    for name, lines in _sections(draft):
        story.append(Paragraph(escape(name), small))
        story += [Paragraph(escape(line), plain) for line in lines]
    out = io.BytesIO()
    document = SimpleDocTemplate(out, pagesize=A4, leftMargin=56, rightMargin=56, topMargin=56, bottomMargin=56, title=draft.title,
                                 author=draft.signature.name if draft.signature else "draft", invariant=1)  # fmt: skip
    document.build(story, onFirstPage=_on_page, onLaterPages=_on_page)
    return out.getvalue()


def _examined(draft: Draft, patient: Patient) -> str:
    shown = [patient.id, patient.sex or "", patient.birth_date or "", draft.modality or "", draft.study_date or ""]
    return " · ".join(s for s in shown if s)


def as_docx(draft: Draft, patient: Patient, study: Study | None) -> bytes:
    """Office Open XML; the banner is in the header of every page."""
    from docx import Document

    document = Document()
    document.core_properties.title = draft.title
    document.core_properties.author = draft.signature.name if draft.signature else "draft"
    document.sections[0].header.paragraphs[0].text = banner(draft)
    document.add_heading(draft.title, level=1)
    document.add_paragraph(_examined(draft, patient))
    for name, lines in _sections(draft):
        document.add_heading(name, level=2)
        for line in lines:
            document.add_paragraph(line)
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


_LOINC = {"MR": ("18755-9", "MR study report"), "CT": ("18747-6", "CT study report"), "US": ("18760-9", "US study report")}
"""LOINC document codes of imaging reports by modality (LOINC 2.x, class RAD); others get 18748-4, diagnostic imaging study."""


def loinc_of(draft: Draft) -> tuple[str, str]:
    """Code and name of the report's kind."""
    return _LOINC.get((draft.modality or "").split("/")[0], ("18748-4", "Diagnostic imaging study"))


def as_fhir(draft: Draft, patient: Patient, study: Study | None) -> dict[str, Any]:
    """FHIR R4 DiagnosticReport: `preliminary` until signed, then `final`; measurements are contained Observations, the PDF is its form."""
    code, display = loinc_of(draft)
    signed = draft.signature
    status = "final" if signed else "preliminary"
    observations = [fhir.measured(f, f"m{n}", patient.id, status, study, linked=False) for n, f in enumerate(draft.facts)
                    if f.kind is Kind.MEASUREMENT and isinstance(f.source, ImageRef)]  # fmt: skip
    conclusion = "\n".join(s.text for s in draft.part("IMPRESSION"))
    return {
        "resourceType": "DiagnosticReport", "id": draft.id.replace("_", "-"), "status": status,
        "language": draft.language,
        "text": {"status": "generated", "div": _narrative(draft)},
        "contained": observations,
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD", "display": "Radiology"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": code, "display": display}], "text": draft.title},
        "subject": {"identifier": {"value": patient.id}},
        **({"effectiveDateTime": draft.study_date} if draft.study_date else {}),
        "issued": signed.at if signed else draft.created,
        **({"resultsInterpreter": [{"display": signed.name}]} if signed else {}),
        "performer": [{"display": draft.software}],
        **({"imagingStudy": [{"identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{study.study_instance_uid}"}}]}
           if study is not None and study.study_instance_uid else {}),
        "result": [{"reference": f"#{o['id']}"} for o in observations],
        **({"conclusion": conclusion} if conclusion else {}),
        **({"conclusionCode": codes} if (codes := fhir.conclusions(draft)) else {}),
        "presentedForm": [{"contentType": "application/pdf", "language": draft.language, "title": f"{draft.title}. {banner(draft)}",
                           "data": base64.b64encode(as_pdf(draft, patient, study)).decode()}],
    }  # fmt: skip


def _narrative(draft: Draft) -> str:
    from xml.sax.saxutils import escape

    body = "".join(f"<h3>{escape(n)}</h3>" + "".join(f"<p>{escape(line)}</p>" for line in lines) for n, lines in _sections(draft))
    return f'<div xmlns="http://www.w3.org/1999/xhtml"><p>{escape(banner(draft))}</p>{body}</div>'


def as_sr(draft: Draft, patient: Patient, study: Study | None) -> bytes:
    """DICOM Enhanced SR by TID 2000 (Basic Diagnostic Imaging Report), part 10; unverified until signed. Raises Refused without images."""
    import highdicom as hd
    from pydicom.sr.coding import Code
    from pydicom.uid import generate_uid

    evidence = _headers(draft, study)
    codes = {"INDICATION": Code("121109", "DCM", "Indications for Procedure"), "TECHNIQUE": Code("121065", "DCM", "Procedure Description"),
             "COMPARISON": Code("18834-2", "LN", "Radiology Comparison study"), "FINDINGS": Code("121070", "DCM", "Findings"),
             "IMPRESSION": Code("121072", "DCM", "Impressions")}  # fmt: skip
    single = {"INDICATION": Code("121071", "DCM", "Finding"), "TECHNIQUE": Code("121071", "DCM", "Finding"),
              "COMPARISON": Code("121071", "DCM", "Finding"), "FINDINGS": Code("121071", "DCM", "Finding"),
              "IMPRESSION": Code("121073", "DCM", "Impression")}  # fmt: skip
    contains = hd.sr.RelationshipTypeValues.CONTAINS
    root = hd.sr.ContainerContentItem(
        name=Code("18748-4", "LN", "Diagnostic Imaging Report"), is_content_continuous=False, template_id="2000"
    )
    items = hd.sr.ContentSequence()
    for part in PARTS:
        if not draft.part(part):
            continue
        section = hd.sr.ContainerContentItem(name=codes[part], is_content_continuous=False, relationship_type=contains)
        section.ContentSequence = hd.sr.ContentSequence(
            [hd.sr.TextContentItem(name=single[part], value=s.text, relationship_type=contains) for s in draft.part(part)]
        )
        items.append(section)
    root.ContentSequence = items
    made = hd.sr.EnhancedSR(
        evidence=evidence, content=root, series_instance_uid=generate_uid(), series_number=9000, sop_instance_uid=generate_uid(),
        instance_number=1, manufacturer="Consilium (research use only)", manufacturer_model_name=draft.software, software_versions=draft.software,
        device_serial_number="1", is_complete=draft.signature is not None, is_final=draft.signature is not None,
        is_verified=draft.signature is not None, verifying_observer_name=_person(draft), verifying_organization="-" if draft.signature else None,
        series_description=f"{'' if draft.signature else 'DRAFT '}{draft.title}"[:64],
    )  # fmt: skip
    made.SpecificCharacterSet = "ISO_IR 192"
    return written(made)


def _person(draft: Draft) -> str | None:
    return draft.signature.name.replace(" ", "^") if draft.signature else None


def _headers(draft: Draft, study: Study | None) -> list[Any]:
    """A data set for each series that the draft stands on, with what identifies patient, study and instances."""
    from pydicom import Dataset
    from pydicom.uid import (
        CTImageStorage,
        MRImageStorage,
        PositronEmissionTomographyImageStorage,
        SecondaryCaptureImageStorage,
        UltrasoundImageStorage,
    )

    classes = {
        "MR": MRImageStorage,
        "CT": CTImageStorage,
        "US": UltrasoundImageStorage,
        "PT": PositronEmissionTomographyImageStorage,
    }
    kinds = {q.series_uid: q for q in study.series} if study is not None else {}
    if study is None or not study.study_instance_uid:
        raise Refused("this report stands on no DICOM study", "export it as text, PDF, DOCX or FHIR")
    uids = {u: f.source.series_uid for f in draft.facts if isinstance(f.source, ImageRef) and f.source.study_id == study.id
            for u in f.source.sop_instance_uids}  # fmt: skip
    if not uids:
        raise Refused(
            "the images of this report have no SOP Instance UIDs (they aren't DICOM)", "export it as text, PDF, DOCX or FHIR"
        )
    found = []
    for instance, series in uids.items():
        one = Dataset()
        one.PatientID, one.PatientName = study.patient_id, ""
        one.PatientBirthDate, one.PatientSex, one.StudyID, one.AccessionNumber, one.ReferringPhysicianName = "", "", "", "", ""
        one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPInstanceUID = study.study_instance_uid, series, instance
        of = kinds.get(series)
        told = str(of.header.get("SOPClassUID") or "") if of is not None else ""
        one.SOPClassUID = told or classes.get(of.modality if of is not None else "", SecondaryCaptureImageStorage)
        one.StudyDate, one.StudyTime = (study.date or "").replace("-", ""), ""
        found.append(one)
    return found


def as_dicom_pdf(draft: Draft, patient: Patient, study: Study | None) -> bytes:
    """DICOM Encapsulated PDF (PS3.3 A.45.1), part 10. Raises Refused without images in DICOM."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian, generate_uid

    one = _headers(draft, study)[0]
    assert study is not None
    made = Dataset()
    for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID",
                 "AccessionNumber", "ReferringPhysicianName"):  # fmt: skip
        setattr(made, name, getattr(one, name))
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID, made.SOPInstanceUID, made.SeriesInstanceUID = EncapsulatedPDFStorage, generate_uid(), generate_uid()
    made.Modality, made.SeriesNumber, made.InstanceNumber, made.ConversionType = "DOC", 9001, 1, "WSD"
    made.Manufacturer, made.ManufacturerModelName = "Consilium (research use only)", draft.software
    made.ContentDate, made.ContentTime = draft.created[:10].replace("-", ""), draft.created[11:19].replace(":", "")
    made.AcquisitionDateTime = ""
    made.BurnedInAnnotation, made.DocumentTitle, made.MIMETypeOfEncapsulatedDocument = "YES", draft.title, "application/pdf"
    made.VerificationFlag = "VERIFIED" if draft.signature else "UNVERIFIED"
    made.ConceptNameCodeSequence = []
    pdf = as_pdf(draft, patient, study)
    made.EncapsulatedDocumentLength = len(pdf)
    made.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.MediaStorageSOPInstanceUID = made.SOPClassUID, made.SOPInstanceUID
    return written(made)


def as_json(draft: Draft, patient: Patient, study: Study | None) -> bytes:
    """The FHIR DiagnosticReport as bytes."""
    import json

    return json.dumps(as_fhir(draft, patient, study), ensure_ascii=False, indent=1).encode()


FORMS: dict[str, tuple[Callable[[Draft, Patient, Study | None], bytes], str, str]] = {
    "text": (as_text, "text/plain; charset=utf-8", "txt"),
    "pdf": (as_pdf, "application/pdf", "pdf"),
    "docx": (as_docx, "application/vnd.openxmlformats-officedocument.wordprocessingml.document", "docx"),
    "fhir": (as_json, "application/fhir+json", "json"),
    "sr": (as_sr, "application/dicom", "dcm"),
    "dicom_pdf": (as_dicom_pdf, "application/dicom", "dcm"),
}
"""Form -> how it is made, its media type, its file's ending."""
