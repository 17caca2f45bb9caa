"""The field's work in a conversation, on the built-in planner."""

from pathlib import Path

import pytest

from agent.assistant import Assistant
from agent.planner.arguments import pasted
from knowledge import sample

PLANS = {
    "Write a draft report for this MRI in German": "draft_report",
    "Draft a tumour board summary": "draft_report",
    'Proofread this report: "FINDINGS: No mass. IMPRESSION: Normal."': "check_report",
    "Which follow-ups are overdue?": "follow_up",
    "Is there a dural tail sign?": "imaging_signs",
    "What else could this be? Give me a ranked differential.": "differential_diagnosis",
    "Teach me about this case as a resident": "education_quiz",
}


LONG = {"Draft a tumour board summary", "Teach me about this case as a resident"}


@pytest.mark.parametrize("question", [pytest.param(q, marks=pytest.mark.slow) if q in LONG else q for q in PLANS])
async def test_each_kind_of_work_is_planned_and_answered(assistant: Assistant, question: str) -> None:
    conversation = assistant.open(sample.PATIENT_ID, None)
    answer = await assistant.ask(conversation.id, question)
    assert PLANS[question] in [s.tool for s in answer.plan], [s.tool for s in answer.plan]
    assert not answer.left_out, answer.left_out
    assert answer.statements or answer.missing


async def test_a_draft_is_called_a_draft_in_the_answer_and_has_its_handle(assistant: Assistant) -> None:
    conversation = assistant.open(sample.PATIENT_ID, None)
    answer = await assistant.ask(conversation.id, "Schreibe einen Befundentwurf für diese MRT, bitte als Entwurf für den Bericht")
    step = next(s for s in answer.plan if s.tool == "draft_report")
    assert step.made is not None and step.made.kind == "draft"
    assert "unterschrieben" in answer.lead and any("Läsion" in s.text for s in answer.statements)


async def test_a_teaching_session_goes_on_until_the_learner_leaves_it(assistant: Assistant) -> None:
    conversation = assistant.open(sample.PATIENT_ID, None)
    first = await assistant.ask(conversation.id, "quiz me on GBM imaging using this case")
    assert first.statements[-1].text.startswith("Question 1")
    second = await assistant.ask(conversation.id, "right, by the radiological convention: the patient's right is on the left")
    assert second.statements[0].text.startswith("Your answer has 3 of 3 points.") and second.statements[-1].text.startswith(
        "Question 2"
    )
    aside = await assistant.ask(conversation.id, "How big is the tumour?")
    assert "measure" in [s.tool for s in aside.plan] and "education_quiz" not in [s.tool for s in aside.plan]


async def test_a_differential_needs_no_case(assistant: Assistant) -> None:
    conversation = assistant.open(None, None)
    answer = await assistant.ask(
        conversation.id,
        "What is the differential of a ring-enhancing brain lesion with restricted diffusion in its centre and fever?",
    )
    assert answer.statements[0].text.startswith("1. Brain abscess") and not answer.abstained


async def test_what_if_runs_at_once_for_a_treatment(assistant: Assistant) -> None:
    conversation = assistant.open(sample.PATIENT_ID, None)
    before = await assistant.ask(conversation.id, "Which first-line treatment do guidelines recommend?")
    assert any(s.text.startswith("Temozolomide, in this patient. For: MGMT promoter methylated") for s in before.statements)
    after = await assistant.ask(conversation.id, "What if MGMT were unmethylated?")
    assert any("Against: MGMT promoter unmethylated" in s.text for s in after.statements)


def test_the_words_of_a_report_are_taken_from_a_message() -> None:
    assert pasted('Check my report: "No nodules. Liver normal."') == "No nodules. Liver normal."
    assert (
        pasted("Please check this report:\nFINDINGS: No mass.\nIMPRESSION: Normal.") == "FINDINGS: No mass.\nIMPRESSION: Normal."
    )
    assert pasted("Is my report consistent?") is None


def test_the_data_of_the_evaluation_is_there() -> None:
    data = Path(__file__).parents[1] / "data"
    assert (data / "reports_seen.yaml").exists() and (data / "reports_held.yaml").exists() and (data / "field_work.yaml").exists()
