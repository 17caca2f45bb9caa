"""A conversation to take along: Markdown, PDF, or a FHIR R4 document. Each says that it is research output that nobody has signed."""

import io
import json
import uuid
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from agent.memory import Conversation, Message
from knowledge.evidence import Evidence, ImageRef, Kind
from tools.export import fhir

NOTE = "Research use only; not a medical device. Answered by software; no person has signed it."


def _cited(message: Message) -> list[Evidence]:
    """The evidence that the answer's statements cite, in their order."""
    known = {e.id: e for e in message.answer.evidence}
    ids = dict.fromkeys(i for s in message.answer.statements for i in s.evidence)
    return [known[i] for i in ids if i in known]


def as_markdown(conversation: Conversation, messages: Sequence[Message]) -> bytes:
    """Questions, statements and the evidence that each stands on."""
    lines = ["# Consilium conversation", "", NOTE, ""]
    for message in messages:
        lines += [f"## {message.question}", "", message.answer.text, "", "Evidence:", ""]
        lines += [f"- [{e.id}] {e.kind}: {e.statement} ({e.href})" for e in message.answer.evidence] + [""]
    return "\n".join(lines).encode()


def as_pdf(conversation: Conversation, messages: Sequence[Message]) -> bytes:
    """PDF on A4 (reportlab); the note stands on every page."""
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.pdfbase.pdfmetrics import registerFont
    from reportlab.platypus import KeepTogether, Paragraph, SimpleDocTemplate, Spacer

    registerFont(UnicodeCIDFont("STSong-Light"))

    def paragraph(text: str, size: float, **more: Any) -> Any:
        font = "STSong-Light" if any("\u2e80" <= c <= "\uffef" for c in text) else "Helvetica"
        style = ParagraphStyle(f"{font}{size}", fontName=font, fontSize=size, leading=1.4 * size, **more)
        return Paragraph(escape(text), style)

    def on_page(canvas: Any, page: Any) -> None:
        canvas.saveState()
        canvas.setFont("Helvetica", 8)
        canvas.drawString(56, 30, NOTE)
        canvas.drawRightString(A4[0] - 56, 30, str(page.page))
        canvas.restoreState()

    story: list[Any] = [
        paragraph("Consilium conversation", 15),
        paragraph(" · ".join(filter(None, [conversation.patient_id, conversation.created])), 9),
    ]
    for message in messages:
        answer = message.answer
        story += [
            Spacer(1, 12),
            KeepTogether([paragraph(message.question, 12, spaceAfter=4), paragraph(message.created, 8, textColor="#444444")]),
        ]
        if answer.lead or not answer.statements:
            story.append(paragraph(answer.lead or answer.text, 10))
        story += [paragraph(f"{s.text} {' '.join(f'[{i}]' for i in s.evidence)}", 10, spaceBefore=3) for s in answer.statements]
        story += [paragraph(f"Missing: {m.what}: {m.why}.", 9, spaceBefore=3, textColor="#7a4f00") for m in answer.missing]
        story += [
            paragraph(f"[{e.id}] {e.kind}: {e.title}. {e.statement}", 8, textColor="#444444", leftIndent=12)
            for e in _cited(message)
        ]
    out = io.BytesIO()
    document = SimpleDocTemplate(out, pagesize=A4, leftMargin=56, rightMargin=56, topMargin=56, bottomMargin=56,
                                 title="Consilium conversation", author="Consilium (research use only)", invariant=1)  # fmt: skip
    document.build(story, onFirstPage=on_page, onLaterPages=on_page)
    return out.getvalue()


def as_fhir(conversation: Conversation, messages: Sequence[Message]) -> bytes:
    """A FHIR R4 Bundle of type `document`: a preliminary Composition with a section for each question, and an Observation for each measurement cited."""

    def urn(name: str) -> str:
        return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{conversation.id}/{name}')}"

    subject = {"subject": {"identifier": {"value": conversation.patient_id}}} if conversation.patient_id else {}
    device = urn("device")
    software = messages[-1].answer.provenance.software
    entries: list[dict[str, Any]] = []
    sections = []
    for message in messages:
        measured = []
        for fact in _cited(message):
            if fact.kind is Kind.MEASUREMENT and isinstance(fact.source, ImageRef):
                measured.append({"reference": urn(fact.id)})
                entries.append({"fullUrl": urn(fact.id), "resource": _observation(fact, conversation, message, device)})
        sections.append({"title": message.question, "text": {"status": "generated", "div": _narrative(message)},
                         **({"entry": measured} if measured else {})})  # fmt: skip
    composition = {
        "resourceType": "Composition", "status": "preliminary", "type": {"text": "Answers of a research assistant, unsigned"}, **subject,
        "date": messages[-1].created, "author": [{"reference": device}], "title": "Consilium conversation", "section": sections,
    }  # fmt: skip
    unique = {e["fullUrl"]: e for e in entries}
    bundle = {
        "resourceType": "Bundle", "type": "document", "identifier": {"system": "urn:ietf:rfc:3986", "value": urn("bundle")},
        "timestamp": messages[-1].created,
        "entry": [{"fullUrl": urn("composition"), "resource": composition},
                  {"fullUrl": device, "resource": {"resourceType": "Device", "deviceName": [{"name": "Consilium (research use only)", "type": "user-friendly-name"}],
                                                   "version": [{"value": software}]}},
                  *unique.values()],
    }  # fmt: skip
    return json.dumps(bundle, ensure_ascii=False, indent=1).encode()


def _narrative(message: Message) -> str:
    said = "".join(f"<p>{escape(s.text)} {escape(' '.join(f'[{i}]' for i in s.evidence))}</p>" for s in message.answer.statements)
    listed = "".join(f"<li>[{escape(e.id)}] {escape(e.statement)}</li>" for e in _cited(message))
    lead = f"<p>{escape(message.answer.lead or message.answer.text)}</p>" if message.answer.lead or not said else ""
    return f'<div xmlns="http://www.w3.org/1999/xhtml"><p>{escape(NOTE)}</p>{lead}{said}{f"<ul>{listed}</ul>" if listed else ""}</div>'


def _observation(fact: Evidence, conversation: Conversation, message: Message, device: str) -> dict[str, Any]:
    made = fhir.measured(fact, fact.id, conversation.patient_id or "", "preliminary", None, linked=False)
    made.pop("id")
    if not conversation.patient_id:
        made.pop("subject")
    return {**made, "issued": message.created, "device": {"reference": device}}


FORMS = {"md": (as_markdown, "text/markdown; charset=utf-8", "md"), "pdf": (as_pdf, "application/pdf", "pdf"),
         "fhir": (as_fhir, "application/fhir+json", "json")}  # fmt: skip
"""How each form is made, its media type, its ending."""
