"""Tools of others, for tests."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from knowledge.evidence import Fact, Kind, RecordRef
from tools.base import Card, CaseTool, Effect, Needs, Reply


class Note(BaseModel):
    model_config = ConfigDict(extra="forbid")
    text: str = "x"


class WriteNote(CaseTool):
    """Writes; each thing that was written is kept, so that none goes unseen."""

    name: str = "write_note"
    description: str = "Write a note into the record."
    args_schema: type[BaseModel] = Note
    asks: ClassVar[list[str]] = [
        "Write a note",
        "Add a note to the record",
        "Save this note",
        "Note this down",
        "Put a note into the chart",
    ]
    needs: ClassVar[Needs] = Needs()
    gives: ClassVar[list[Kind]] = [Kind.RECORD]
    card: ClassVar[Card] = Card(intended_use="test", accuracy="none", limits="test")
    effect: ClassVar[Effect] = Effect.WRITE
    written: ClassVar[list[str]] = []

    def answer(self, arguments: Note) -> Reply:
        self.written.append(arguments.text)
        fact = Fact(kind=Kind.RECORD, title="Note", statement=f"A note was written: {arguments.text}.", value=arguments.text,
                    source=RecordRef(resource="DocumentReference/1", path="content"))  # fmt: skip
        return Reply(text="done", facts=[fact])
