"""One evidence with its source opened."""

from typing import Any

from fastapi import APIRouter

from knowledge.entities.library import described
from knowledge.evidence import Evidence, ImageRef, PassageRef, RecordRef, ReportSpan, RuleRef
from knowledge.guidelines.corpus import CHECKED
from serving.api.deps import Caller, HouseDep
from serving.house import House

router = APIRouter(tags=["evidence"])


@router.get("/v1/evidence/{evidence_id}", operation_id="open_evidence", summary="One evidence with its source opened")
def open_evidence(house: HouseDep, who: Caller, evidence_id: str) -> dict[str, Any]:
    """`opened` holds the report's text with the span, the passage, the record's value, the frame's URLs, or the rule's facts."""
    evidence, patient_id = house.memory.evidence(evidence_id)
    return {**evidence.model_dump(mode="json"), "opened": _opened(house, evidence, patient_id)}


def _opened(house: House, evidence: Evidence, patient_id: str | None) -> dict[str, Any]:
    source = evidence.source
    if isinstance(source, ImageRef):
        return _image(house, source) | ({"beside": [_placed(house, one) for one in evidence.beside]} if evidence.beside else {})
    if isinstance(source, ReportSpan):
        pasted = source.record_id.startswith("k_")
        report = house.resources.drafts.checked(source.record_id).report if pasted else house.archive.report(source.record_id)
        return {"report": report.model_dump(), "span": report.text[source.start : source.end]}
    if isinstance(source, PassageRef):
        passage = house.resources.guidelines.passage(source.passage_id)
        if passage is None:
            return {"passage": None, "note": "this passage is no longer in the corpus; the evidence keeps its words"}
        text, start, end = house.resources.guidelines.page(passage)
        picture = f"/v1/guidelines/{passage.document_id}/pages/{passage.page}/picture" if passage.page else None
        return {"passage": passage.model_dump(), "checked": CHECKED[passage.checked], "page": {"text": text, "start": start, "end": end},
                "sentence": list(source.sentence or (0, len(passage.text))), "picture": picture}  # fmt: skip
    if isinstance(source, RecordRef):
        items = house.archive.items(patient_id) if patient_id else []
        same = [i.model_dump() for i in items if i.resource == source.resource and i.path == source.path]
        history = [i.model_dump() for i in items if same and i.name == same[0]["name"]]
        return {"record": same[0] if same else None, "history": history}
    assert isinstance(source, RuleRef)
    spec = described(source.rule) or house.resources.rules.rule(source.rule).spec
    return {"rule": {"title": spec["title"], "version": spec["version"], "facts": spec["facts"], "inputs": source.inputs,
                     "missing": source.missing, "notes": spec.get("notes", ""), "section": source.section, "document": source.document,
                     "origins": _origins(house, evidence, source),
                     "would_change": source.would_change}}  # fmt: skip


def _origins(house: House, evidence: Evidence, source: RuleRef) -> dict[str, Any]:
    """Where each input comes from; `href` opens it where it is an evidence of the same conversation."""
    kin = house.memory.numbered(evidence.href.rsplit("/", 1)[1].rsplit(".", 1)[0])
    by_number, by_words = {e.id: e.href for e in kin}, {e.statement: e.href for e in kin}
    return {n: {**o.model_dump(mode="json"), "href": by_number.get(o.evidence or "") or by_words.get(o.statement)}
            for n, o in source.origins.items()}  # fmt: skip


def _placed(house: House, source: ImageRef) -> dict[str, Any]:
    """The same place on another study, with what is drawn there."""
    return {**_image(house, source), "line": source.line, "box": source.box, "mask": source.mask}


def _image(house: House, source: ImageRef) -> dict[str, Any]:
    study = house.archive.study(source.study_id)
    series = next((s for s in study.series if s.series_uid == source.series_uid), None)
    if series is None:
        return {"note": "the series is no longer in the archive"}
    base = f"/v1/studies/{study.id}/series/{series.id}/slices"
    frame = source.frame or 0
    overlay = f"?overlay={source.mask.rsplit('/', 1)[1]}" if source.mask else ""
    return {"study_id": study.id, "series_id": series.id, "frame": frame, "frames": series.shape[2],
            "png": f"{base}/{frame}.png{overlay}", "title": f"{study.handle} · {study.date or 'undated'} · "
            f"{series.modality} {series.sequence or series.description}"}  # fmt: skip
