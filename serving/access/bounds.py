"""A token for one patient never sees another: each route that it may use names whose it is, in its path, query or body, and that is looked up."""

import json
from collections.abc import Callable
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from serving.access.grants import Grant
from serving.errors import Problem
from serving.house import House

CHAT = "consilium/chat"
"""The scope of a conversation on the page: asking, looking, drafting; nothing of it writes to another system."""
OPEN = {"list_tools", "show_tool", "list_templates", "search_corpus", "list_guidelines", "show_guideline", "guideline_page", "guideline_page_picture",
        "list_quiz_items", "quiz_picture", "list_patients", "list_studies_of_archive", "show_session"}  # fmt: skip
"""Routes that tell of no patient, or of the caller's alone."""
OWN = {"show_study", "slice_png", "list_masks", "mask_nifti", "mask_seg", "volume_nifti", "timeline", "show_report", "show_display", "read_frames",
       "read_mask_frames", "open_conversation", "list_conversations", "ask", "stop", "suggest", "branch", "show_conversation", "delete_conversation",
       "feedback", "export_conversation", "list_drafts", "show_draft", "edit_draft", "delete_draft", "show_check", "export_draft", "patient_follow_ups",
       "open_evidence", "run_tool", "pin_tools", "mask_dicom", "list_worksheets", "show_worksheet", "change_worksheet", "export_worksheet",
       "export_measurements"}  # fmt: skip
"""Routes about one patient."""
ACTS = {
    "add_files": "import_studies",
    "describe": "complete_study",
    "confirm": "confirm",
    "sign": "sign_draft",
    "send": "propose_sending",
}
"""What a page offers by a button of its own, and the route that does it."""


def acts(grant: Grant) -> list[str]:
    """Of `ACTS`, those that a caller may do."""
    return [act for act, route in ACTS.items() if grant.scopes is None or route in OWN]


def _whose(house: House) -> dict[str, Callable[[str], str | None]]:
    return {
        "patient_id": lambda v: v, "study_id": lambda v: house.archive.study(v).patient_id, "report_id": lambda v: house.archive.report(v).patient_id,
        "conversation_id": lambda v: house.memory.conversation(v).patient_id, "draft_id": lambda v: house.resources.drafts.get(v).patient_id,
        "worksheet_id": lambda v: house.resources.responses.get(v).patient_id, "check_id": lambda v: house.resources.drafts.checked(v).patient_id, "evidence_id": lambda v: house.memory.evidence(v)[1],
    }  # fmt: skip


async def hold(house: House, request: Request, grant: Grant) -> None:
    """Raises 403 for a route that isn't for such tokens, 404 for what is another patient's."""
    if grant.scopes is None:
        return
    if CHAT not in grant.scopes or grant.patient is None:
        raise Problem(403, "Scope", "the token is for /fhir alone", "use a key")
    name = getattr(request.scope.get("route"), "operation_id", "") or ""
    if name in OPEN:
        return
    if name not in OWN:
        raise Problem(403, "Scope", "that isn't for a token of one patient", "use a key")
    # From everywhere, whatever the request calls its body's type: a second value beside the first hides nothing.
    told = [*request.query_params.multi_items(), *request.path_params.items(), *_json_of(await request.body()).items()]
    whose = _whose(house)
    named = [(k, str(v)) for k, v in told if k in whose and v is not None]
    named += [
        ("study_id", str(v))
        for k, all_ in told
        if k == "study_ids"
        for v in (all_ if isinstance(all_, list) else [all_])
        if v is not None
    ]
    if not named and name != "run_tool":
        raise Problem(403, "Scope", "the token is for one patient", "name them with patient_id")
    for kind, value in named:
        owner = await run_in_threadpool(whose[kind], value)
        if owner != grant.patient:
            raise Problem(404, "NotFound", "there is no such thing for this token", "it is for one patient")


def _json_of(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        return {}  # then no route reads it either
    return found if isinstance(found, dict) else {}
