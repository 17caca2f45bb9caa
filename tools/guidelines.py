"""`search_guidelines`: what is written, with its document, section and page."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from knowledge.evidence import Fact, Kind, PassageRef
from knowledge.guidelines.corpus import CHECKED
from knowledge.guidelines.rules import RULES
from knowledge.guidelines.search import Hit
from tools.base import Card, CaseTool, Cost, Missing, Needs, Reply
from tools.patient_facts import facts_of_case


class SearchArguments(BaseModel):
    """What to look for in the guidelines."""

    model_config = ConfigDict(extra="forbid")
    query: str = Field(description="The clinical question.", min_length=1, max_length=2000)
    disease: str | None = Field(None, description="Only passages on this disease or organ (brain, lung, liver, breast …).")
    version: str | None = Field(
        None, max_length=100, description="Only this version (2017, v2022); superseded ones are found only so."
    )
    modality: str | None = Field(None, max_length=16, description="Only passages for this modality (CT, MR, US …).")
    facts: dict[str, Any] = Field(default_factory=dict, description="Known facts (age_years, kps …): passages for other patients "
                                  "are left out.")  # fmt: skip
    limit: int = Field(4, ge=1, le=10)


class SearchGuidelines(CaseTool):
    """Guideline passages by meaning and words."""

    name: str = "search_guidelines"
    description: str = (
        "Search dated guideline passages (Chroma); gives passages with document, version, section and how far checked."
    )
    args_schema: type[BaseModel] = SearchArguments
    asks: ClassVar[list[str]] = [
        "What do guidelines recommend after surgery?", "Which treatment is standard?", "What is the recommended follow-up?",
        "What does the guideline say about contrast?", "First line options?", "How is response assessed?",
        "When is radiosurgery recommended?", "What does WHO 2021 say?", "What would you usually offer?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs(case=False)
    gives: ClassVar[list[Kind]] = [Kind.GUIDELINE]
    card: ClassVar[Card] = Card(
        intended_use="Finds passages of the corpus in the box and of the hospital's own documents.",
        accuracy="Recall@5 and MRR on question-passage pairs: docs/figures/eval.json.",
        limits="Each passage says how far its facts were checked; a hospital's documents are quoted as they are.", version="2",
    )  # fmt: skip
    cost: ClassVar[Cost] = Cost(seconds=0.05, memory_mb=300)

    def answer(self, arguments: SearchArguments) -> Reply:
        facts_known = {**self._of_the_patient(), **arguments.facts}
        hits = self.bench.resources.guidelines.search(
            arguments.query, arguments.limit, arguments.disease, facts_known, arguments.version, arguments.modality
        )
        if not hits:
            missing = Missing(what="a guideline passage", why="the corpus holds none on this", would_change="it could be cited")
            return Reply(text="The corpus holds no passage on this.", missing=[missing])
        facts = [_passage_fact(h) for h in hits]
        return Reply(text="\n".join(f.statement for f in facts), facts=facts)

    def _of_the_patient(self) -> dict[str, Any]:
        """Age and performance status, by which passages for other patients are left out."""
        case = self.bench.case
        return (
            {n: k.value for n, k in facts_of_case(case, RULES["gbm_mgmt_stupp"]).items() if n in ("age_years", "kps")}
            if case
            else {}
        )


def _passage_fact(hit: Hit) -> Fact:
    passage = hit.passage
    strength = f" [{passage.strength}]" if passage.strength else ""
    doubt = "" if passage.checked == "source" else f" ({CHECKED[passage.checked]})"
    statement = f"{passage.text}{strength}{doubt}"
    if passage.body != "box":  # somebody else's words: quoted, never said as our own
        where = f"page {passage.page}, " if passage.page else ""
        old = "superseded version " if passage.status == "superseded" else "version "
        words = " ".join(passage.text.split())
        statement = (f'"{passage.document}" ({passage.organisation}, {old}{passage.version}, {passage.date or "undated"}; {where}'
                     f'{passage.section}) states: "{words}"{strength}')  # fmt: skip
    source = PassageRef(document=passage.document, version=passage.version, date=passage.date, section=passage.section,
                        page=passage.page, passage_id=passage.id, sentence=hit.sentence)  # fmt: skip
    return Fact(kind=Kind.GUIDELINE, title=f"{passage.document}: {passage.section}", statement=statement, value=passage.text,
                source=source)  # fmt: skip
