"""Teaching sessions: asking, grading, explaining, remembering what was weak."""

import io

import pytest
from PIL import Image

from knowledge.errors import NotFound
from knowledge.evidence import Kind
from knowledge.teaching.items import FOLDER, LEVELS, items, picture
from knowledge.teaching.sessions import TeachingStore
from tests.eval_field import grading
from tools.base import Bench, Reply, Resources
from tools.registry import tool_types
from tools.teaching.grading import grade


def quiz(bench: Bench, **arguments: object) -> Reply:
    return tool_types()["education_quiz"].bound(bench).reply(arguments)


def session_of(reply: Reply) -> str:
    assert reply.made is not None and reply.made.kind == "quiz"
    return reply.made.id


def test_the_items_in_the_box_are_whole_and_attributed() -> None:
    box = items()
    assert len(box) >= 20 and {i.level for i in box.values()} == set(LEVELS)
    attribution = (FOLDER / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for one in box.values():
        assert one.source and one.explain and sum(p.weight for p in one.points) >= 3
        model_answer = grade(one, ". ".join(p.say for p in one.points))
        assert model_answer.score >= 0.6, (one.key, [p.say for p in model_answer.lacks])
        assert grade(one, "I had a sandwich for lunch.").score == 0
        if one.picture:
            assert min(Image.open(io.BytesIO(picture(one.key))).size) >= 256
    assert "CC BY 4.0" in attribution and all(f.name.split("_")[0] in attribution for f in (FOLDER / "pictures").iterdir())
    with pytest.raises(NotFound, match="no picture"):
        picture("pirads")


@pytest.mark.parametrize("half", ["seen", "held"])
def test_free_answers_are_graded_as_their_writer_would(half: str) -> None:
    found = grading(half)
    assert found["recall"]["value"] >= 0.9 and found["precision"]["value"] >= 0.95


def test_a_session_on_the_case_is_graded_against_its_evidence(bench: Bench) -> None:
    first = quiz(bench, use_case=True)
    assert "which side" in first.text and "right" not in first.text, "the question doesn't hold its answer"
    wrong = quiz(bench, session=session_of(first), answer="on the left")
    graded = wrong.facts[0]
    assert graded.value["score"] < 0.5 and "Lacking: on the right" in graded.statement
    assert wrong.facts[1].title == "Outlined region", "the evidence follows the verdict"
    size = quiz(bench, session=session_of(first), answer="4.5 cm")
    assert size.facts[0].value["score"] == 1.0 and size.facts[1].kind is Kind.MEASUREMENT
    skipped = quiz(bench, session=session_of(first), answer="I don't know")
    assert skipped.facts[0].statement.startswith("Skipped.") and skipped.facts[0].value["score"] == 0
    over = quiz(bench, session=session_of(first), answer="stop")
    assert "The session is over: 3 answers" in over.text


def test_what_was_weak_comes_back_first(resources: Resources) -> None:
    bench = Bench(resources)
    first = quiz(bench, topic="liver", learner="Robin", level="student")
    name = session_of(first)
    quiz(bench, session=name, answer="LR-5, no biopsy, board")
    quiz(bench, session=name, answer="no idea")
    again = resources.teaching.get(session_of(quiz(bench, topic="liver", learner="Robin", level="student")))
    assert again.current is not None and again.current.key == "lirads_m"
    assert resources.teaching.scores("Robin") == {"lirads_5": 1.0, "lirads_m": 0.0}
    assert resources.teaching.scores("another") == {}


def test_sessions_outlive_the_process(tmp_path, resources: Resources) -> None:
    name = session_of(quiz(Bench(resources), topic="thyroid"))
    TeachingStore(tmp_path / "t.db").keep(resources.teaching.get(name))
    assert TeachingStore(tmp_path / "t.db").get(name).topic == "thyroid"
    with pytest.raises(NotFound):
        TeachingStore(tmp_path / "t.db").get("q_none")


def test_an_explanation_brings_its_passage(resources: Resources) -> None:
    first = quiz(Bench(resources), topic="thyroid")
    graded = quiz(Bench(resources), session=session_of(first), answer="4 points, TR4, FNA")
    assert graded.facts[0].value["score"] == 1.0 and graded.facts[1].kind is Kind.GUIDELINE
