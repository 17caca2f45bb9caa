"""`education_quiz`: a teaching session that asks, grades the free answer against evidence, explains, and comes back to what was weak."""

import re
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from knowledge.entities.library import organ_of
from knowledge.evidence import Fact, Kind, RuleRef
from knowledge.teaching.items import LEVELS, Item, Level, item, items
from knowledge.teaching.sessions import Answered, TeachingSession, new_session
from tools.base import Card, CaseTool, Cost, Made, Needs, Reply, Said
from tools.errors import ToolError
from tools.guidelines import SearchGuidelines
from tools.teaching.cases import case_items
from tools.teaching.grading import GIVEN_UP, STOP, Grade, grade

LENGTH = 5
"""Questions of a session."""
WEAK = 0.6
"""An item answered below this share of its points comes back first."""


class QuizArguments(BaseModel):
    """Start a session, or answer its question."""

    model_config = ConfigDict(extra="forbid")
    session: str | None = Field(None, max_length=40, description="The session's id; left out: a new one.")
    answer: str | None = Field(
        None, max_length=4000, description="The learner's free answer to the open question; 'next' skips it."
    )
    level: Level | None = Field(None, description="Of the learner; left out: student.")
    topic: str | None = Field(
        None, max_length=120, description="Organ or words (brain, GBM imaging); left out: the case's, or any."
    )
    use_case: bool = Field(False, description="True to ask about the case at hand first.")
    learner: str = Field(
        "",
        max_length=80,
        description="A name of the learner's own choice, under which weak items are remembered; never a patient's.",
    )


class EducationQuiz(CaseTool):
    """Teaching sessions."""

    name: str = "education_quiz"
    description: str = (
        "Teach: start a session by level (student, resident, specialist) and topic, on the case at hand or on the items in the box; ask one question at a "
        "time; grade the learner's free answer (give session and answer) against evidence; explain with picture and passage; remember what was weak."
    )
    args_schema: type[BaseModel] = QuizArguments
    asks: ClassVar[list[str]] = [
        "Quiz me on GBM imaging using this case", "Test my knowledge of this subject", "Teach me with this case", "Ask me questions about this MRI",
        "Give me an exam question for residents", "Start a teaching session", "Quiz me on breast ultrasound as a student",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs(case=False)
    gives: ClassVar[list[Kind]] = [Kind.RULE, Kind.FINDING, Kind.MEASUREMENT, Kind.RECORD, Kind.GUIDELINE]
    card: ClassVar[Card] = Card(
        intended_use="Practice for learners; no examination.",
        accuracy="Grading scored on written answers (docs/figures/field-work.json.quiz).",
        limits="A point is found by its words, so that an unusual wording may be missed; the explanation shows every point. No teacher reviewed the items.",
    )  # fmt: skip
    cost: ClassVar[Cost] = Cost(seconds=4, memory_mb=2000)

    def answer(self, arguments: QuizArguments) -> Reply:
        store = self.bench.resources.teaching
        if arguments.session is None:
            session = self._started(arguments)
            return self._asked(store.keep(session), [], [])
        session = store.get(arguments.session)
        if session.current is None or arguments.answer is None:
            return self._asked(store.keep(_next(session)), [], [])
        if STOP.match(arguments.answer):
            return self._asked(store.keep(session.model_copy(update={"current": None, "queue": []})), [], [])
        facts, said = self._graded(session, session.current, arguments.answer)
        done = grade(session.current, arguments.answer)
        kept = Answered(
            key=session.current.key, topic=session.current.topic, score=done.score, lacked=[p.say for p in done.lacks]
        )
        return self._asked(store.keep(_next(session.model_copy(update={"answered": [*session.answered, kept]}))), facts, said)

    def _started(self, asked: QuizArguments) -> TeachingSession:
        case = self.bench.case
        level: Level = asked.level or "student"
        topic = organ_of(asked.topic or "")
        queue: list[Item] = []
        if case is not None and (asked.use_case or not asked.topic):
            queue = [c.item for c in case_items(self.bench, level)]
            topic = topic or next((organ_of(f"{s.body_part} {s.description}") for s in case.studies), None)
        scores = self.bench.resources.teaching.scores(asked.learner)
        near = sorted((i for i in items().values() if topic in (None, i.topic)), key=lambda i: (
            scores.get(i.key, WEAK) >= WEAK, i.key in scores, abs(LEVELS.index(i.level) - LEVELS.index(level)), i.key))  # fmt: skip
        session = new_session(asked.learner, level, topic)
        return _next(session.model_copy(update={"queue": [*queue, *near][: max(LENGTH, len(queue))]}))

    def _asked(self, session: TeachingSession, facts: list[Fact], said: list[Said]) -> Reply:
        """What was said of the last answer, then the next question or the summary."""
        if session.current is not None:
            last = _question(session, session.current)
        else:
            last = _summary(session)
        facts = [*facts, last]
        said = [*said, Said(text=last.statement, facts=[len(facts) - 1])]
        return Reply(text="\n".join(s.text for s in said), facts=facts, said=said,
                     made=Made(kind="quiz", id=session.id, title=f"{session.level}: {session.current.key if session.current else 'done'}"))  # fmt: skip

    def _graded(self, session: TeachingSession, asked: Item, answer: str) -> tuple[list[Fact], list[Said]]:
        given_up = bool(GIVEN_UP.match(answer))
        done = grade(asked, answer) if not given_up else Grade([], asked.points, [], 0.0)
        facts: list[Fact] = [_verdict(session, asked, done, given_up)]
        said = [Said(text=facts[0].statement, facts=[0])]
        proofs = self._proofs(session, asked)
        for fact in proofs:
            facts.append(fact)
            said.append(Said(text=fact.statement, facts=[len(facts) - 1]))
        return facts, said

    def _proofs(self, session: TeachingSession, asked: Item) -> list[Fact]:
        """The evidence behind the right answer: of the case, or a passage of a guideline."""
        if asked.topic == "this case" and self.bench.case is not None:
            return next((c.facts for c in case_items(self.bench, session.level) if c.item.key == asked.key), [])
        if asked.passage is None:
            return []
        try:
            return list(SearchGuidelines.bound(self.bench).reply({"query": asked.passage}).facts[:1])
        except ToolError:
            return []


def _next(session: TeachingSession) -> TeachingSession:
    queue = session.queue
    return session.model_copy(update={"current": queue[0] if queue else None, "queue": queue[1:]})


def _ref(session: TeachingSession, asked: str, document: str) -> RuleRef:
    return RuleRef(rule=f"quiz:{asked}", document=document, section=f"session {session.id}", inputs={})


def _value(more: dict[str, Any]) -> dict[str, Any]:
    return {"category": None, "recommendation": "", "values": {}, "checked": True, **more}


def _question(session: TeachingSession, asked: Item) -> Fact:
    number = len(session.answered) + 1
    shown = " (look at the picture)" if asked.picture else ""
    picture = {"picture": f"/v1/quiz/items/{asked.key}/picture"} if asked.picture else {}
    return Fact(kind=Kind.RULE, title=f"Question {number}", statement=f"Question {number}, for a {asked.level}{shown}: {asked.ask}",
                value=_value({"quiz": "question", "session": session.id, "item": asked.key, **picture}), source=_ref(session, asked.key, asked.source))  # fmt: skip


def _verdict(session: TeachingSession, asked: Item, done: Grade, given_up: bool) -> Fact:
    total, got = sum(p.weight for p in asked.points), sum(p.weight for p in done.has)
    parts = ["Skipped."] if given_up else [f"Your answer has {got} of {total} points."]
    parts += [f"Named: {'; '.join(p.say for p in done.has)}."] if done.has else []
    parts += [f"Lacking: {'; '.join(p.say for p in done.lacks)}."] if done.lacks else []
    parts += [f"To correct: {'; '.join(w.say for w in done.wrong)}."] if done.wrong else []
    parts.append(f"Explanation: {asked.explain} Source: {asked.source}")
    picture = {"picture": f"/v1/quiz/items/{asked.key}/picture"} if asked.picture else {}
    return Fact(kind=Kind.RULE, title=f"Graded: {asked.key.replace('_', ' ')}", statement=" ".join(parts),
                value=_value({"quiz": "graded", "session": session.id, "item": asked.key, "score": done.score, **picture}),
                source=_ref(session, asked.key, asked.source))  # fmt: skip


def _summary(session: TeachingSession) -> Fact:
    weak = [a for a in session.answered if a.score < WEAK]
    mean = sum(a.score for a in session.answered) / len(session.answered) if session.answered else 0.0
    statement = f"The session is over: {len(session.answered)} answers with {100 * mean:.0f} % of the points."
    statement += f" Weak, and asked first next time: {'; '.join(_named(a.key) for a in weak)}." if weak else " Nothing was weak."
    return Fact(kind=Kind.RULE, title="Session summary", statement=statement,
                value=_value({"quiz": "summary", "session": session.id, "score": round(mean, 2), "weak": [a.key for a in weak]}),
                source=_ref(session, "summary", "This session"))  # fmt: skip


def _named(key: str) -> str:
    return re.sub(r"_", " ", key if key not in items() else f"{item(key).topic} ({key})")
