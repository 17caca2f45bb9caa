"""A hospital's own guidelines: documents with their versions and pages in a database, their originals beside it."""

import hashlib
import os
import re
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, ColumnElement, Engine, ForeignKey, delete, func, insert, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from knowledge.database import batches, engine_of
from knowledge.errors import NotFound
from knowledge.evidence import Frozen
from knowledge.guidelines.corpus import Passage
from knowledge.guidelines.ingest.chunks import Chunk
from knowledge.guidelines.shelves import Text


class Base(DeclarativeBase):
    """Tables of the library."""

    type_annotation_map = {list[str]: JSON}


class DocumentRow(Base):
    """A version of a document. `status`: adding, current, superseded."""

    __tablename__ = "documents"
    id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(index=True)
    title: Mapped[str]
    organisation: Mapped[str]
    version: Mapped[str]
    date: Mapped[str]
    source: Mapped[str]
    sha256: Mapped[str]
    kind: Mapped[str]
    pages: Mapped[int]
    passages: Mapped[int]
    body: Mapped[str] = mapped_column(index=True)
    disease: Mapped[list[str]]
    modality: Mapped[list[str]]
    status: Mapped[str]
    added: Mapped[str]
    warnings: Mapped[list[str]]


class PageRow(Base):
    """The text of a page."""

    __tablename__ = "pages"
    document_id: Mapped[str] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class PassageRow(Base):
    """A chunk of a document."""

    __tablename__ = "passages"
    id: Mapped[str] = mapped_column(primary_key=True)
    document_id: Mapped[str] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"), index=True)
    number: Mapped[int]
    page: Mapped[int | None]
    section: Mapped[str]
    start: Mapped[int]
    end: Mapped[int]
    text: Mapped[str]
    strength: Mapped[str | None]


class RevisionRow(Base):
    """Counts every change, so that other processes see it."""

    __tablename__ = "revision"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]


class Document(Frozen):
    """A document of the corpus, in the box or a hospital's own."""

    id: str
    document: str
    organisation: str
    version: str
    date: str
    source: str
    checked: str
    passages: int
    pages: int | None = None
    disease: list[str]
    modality: list[str]
    body: str = "box"
    status: str = "current"
    added: str | None = None
    warnings: list[str] = []


FRESH_S = 0.02
"""A search asks for the revision several times: the answer holds for a moment."""


class Library:
    """Documents, pages and passages under `folder`. What is in the database is what there is; an index is built from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._read: tuple[int, list[DocumentRow]] = (0, [])
        self._looked = (float("-inf"), 0)

    @cached_property
    def engine(self) -> Engine:
        with self._lock:
            self.folder.mkdir(parents=True, exist_ok=True)
            return engine_of(f"sqlite:///{self.folder / 'library.db'}", Base)

    @property
    def there(self) -> bool:
        """False while nothing was ever added: then no database is made."""
        return (self.folder / "library.db").exists()

    def close(self) -> None:
        """Let go of the database's files."""
        if "engine" in self.__dict__:
            self.engine.dispose()

    def revision(self) -> int:
        """Rises with every change by any process; looked up again after `FRESH_S`, at once after a change by this process."""
        if time.monotonic() - self._looked[0] > FRESH_S:
            number = 0
            if self.there:
                with Session(self.engine) as session:
                    number = session.scalar(select(RevisionRow.number)) or 0
            self._looked = time.monotonic(), number
        return self._looked[1]

    def documents(self, status: Sequence[str] = ("current", "superseded")) -> list[DocumentRow]:
        """Versions of documents, newest first."""
        revision = self.revision()
        if revision != self._read[0]:
            with Session(self.engine, expire_on_commit=False) as session:
                rows = session.scalars(select(DocumentRow).where(DocumentRow.status != "adding"))
                self._read = revision, sorted(rows, key=lambda r: (r.title.lower(), r.date, r.added), reverse=True)
        return [r for r in self._read[1] if r.status in status]

    def document(self, document_id: str) -> DocumentRow:
        """One version. Raises NotFound."""
        found = next((d for d in self.documents() if d.id == document_id), None)
        if found is None:
            raise NotFound(f"there is no document {document_id!r}", "list them with GET /v1/guidelines")
        return found

    def by_content(self, sha256: str) -> DocumentRow | None:
        """The version whose file has this content."""
        return next((d for d in self.documents() if d.sha256 == sha256), None)

    def passages(self, ids: Sequence[str]) -> dict[str, Passage]:
        """Passages by id; those that aren't there (any more) are left out."""
        if not ids or not self.there:
            return {}
        documents = {d.id: d for d in self.documents()}
        found: dict[str, Passage] = {}
        columns = (PassageRow.id, PassageRow.document_id, PassageRow.section, PassageRow.page, PassageRow.text, PassageRow.strength,
                   PassageRow.start, PassageRow.end)  # fmt: skip
        with Session(self.engine) as session:
            for some in batches(ids):
                for row in session.execute(select(*columns).where(PassageRow.id.in_(some))):
                    if row.document_id in documents:
                        found[row.id] = _passage(row, documents[row.document_id])
        return found

    def indexed(self, ids: Sequence[str]) -> dict[str, Text]:
        """What is indexed of passages, by id; without building them whole, for the many candidates of a search."""
        titles = {d.id: d.title for d in self.documents()}
        found: dict[str, Text] = {}
        with Session(self.engine) as session:
            for some in batches(ids):
                for i, document, section, text in session.execute(
                    select(PassageRow.id, PassageRow.document_id, PassageRow.section, PassageRow.text).where(
                        PassageRow.id.in_(some)
                    )
                ):
                    if document in titles:
                        found[i] = Text.of(titles[document], section, text)
        return found

    def texts(self, body: str) -> tuple[list[str], list[Text]]:
        """Ids and what is indexed (title, section, text) of a body's current passages, in order."""
        return self._texts(DocumentRow.body == body, DocumentRow.status == "current")

    def of_document(self, document_id: str) -> tuple[list[str], list[Text]]:
        """Ids and what is indexed of one version."""
        return self._texts(PassageRow.document_id == document_id)

    def _texts(self, *where: ColumnElement[bool]) -> tuple[list[str], list[Text]]:
        order = (DocumentRow.added, PassageRow.document_id, PassageRow.number)
        columns = (PassageRow.id, DocumentRow.title, PassageRow.section, PassageRow.text)
        with Session(self.engine) as session:
            rows = session.execute(select(*columns).join(DocumentRow).where(*where).order_by(*order)).all()
        return [r[0] for r in rows], [Text.of(*r[1:]) for r in rows]

    def page(self, document_id: str, number: int) -> str:
        """The text of a page (from 1). Raises NotFound."""
        with Session(self.engine) as session:
            text = session.scalar(select(PageRow.text).where(PageRow.document_id == document_id, PageRow.number == number))
        if text is None:
            raise NotFound(f"{document_id!r} has no page {number}", "pages count from 1")
        return text

    def original(self, document_id: str) -> Path:
        """The file as it was added. Raises NotFound."""
        row = self.document(document_id)
        path = self.folder / "originals" / f"{row.sha256}.{row.kind}"
        if not path.exists():
            raise NotFound(f"the original of {document_id!r} is gone", "add the document again")
        return path

    def keep(self, row: DocumentRow, pages: Sequence[str], cut: Sequence[Chunk], data: bytes, paged: bool) -> None:
        """Write a document as `adding`: file first, then all rows in one transaction. It counts only once `publish` was called."""
        target = self.folder / "originals" / f"{row.sha256}.{row.kind}"
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{row.sha256}.{time.monotonic_ns()}.part")
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            session.execute(delete(DocumentRow).where(DocumentRow.id == row.id))
            session.add(row)
            session.flush()
            for lines in batches([{"document_id": row.id, "number": n, "text": t} for n, t in enumerate(pages, 1)]):
                session.execute(insert(PageRow), list(lines))
            rows: list[dict[str, Any]] = [{"id": f"{row.id}.{n}", "document_id": row.id, "number": n, "page": c.page if paged else None, "section": c.section,
                     "start": c.start, "end": c.end, "text": c.text, "strength": c.strength} for n, c in enumerate(cut, 1)]  # fmt: skip
            for some in batches(rows):
                session.execute(insert(PassageRow), list(some))

    def publish(self, document_id: str, status: str, supersedes: Sequence[str]) -> None:
        """Let a document that was written count, and its older versions be superseded, in one transaction."""
        with Session(self.engine) as session, session.begin():
            session.execute(update(DocumentRow).where(DocumentRow.id == document_id).values(status=status))
            if supersedes:
                session.execute(update(DocumentRow).where(DocumentRow.id.in_(supersedes)).values(status="superseded"))
            self._changed(session)
        self._looked = (float("-inf"), 0)

    def remove(self, document_id: str) -> None:
        """Take a version out with its pages, passages and original. Raises NotFound."""
        self.document(document_id)
        with Session(self.engine) as session, session.begin():
            self._delete(session, [document_id])
            self._changed(session)
        self._looked = (float("-inf"), 0)

    def discard(self, document_id: str) -> None:
        """Take out what was being added and didn't come to its end."""
        with Session(self.engine) as session, session.begin():
            self._delete(session, [document_id])

    def _delete(self, session: Session, ids: Sequence[str]) -> None:
        """Rows, and the originals that no other version has; a file that outlives its rows by a crash does no harm."""
        gone = session.execute(select(DocumentRow.sha256, DocumentRow.kind).where(DocumentRow.id.in_(ids))).all()
        session.execute(delete(DocumentRow).where(DocumentRow.id.in_(ids)))
        for sha256, kind in gone:
            if session.scalar(select(func.count()).where(DocumentRow.sha256 == sha256)) == 0:
                (self.folder / "originals" / f"{sha256}.{kind}").unlink(missing_ok=True)

    def sweep(self) -> list[str]:
        """Take out what an interrupted addition left; its ids."""
        if not self.there:
            return []
        with Session(self.engine) as session, session.begin():
            left = list(session.scalars(select(DocumentRow.id).where(DocumentRow.status == "adding")))
            self._delete(session, left)
        return left

    def _changed(self, session: Session) -> None:
        row = session.get(RevisionRow, 1)
        if row is None:
            session.add(RevisionRow(id=1, number=1))
        else:
            row.number += 1


def identity(key: str, version: str, sha256: str) -> str:
    """The id of a version of a document."""
    return f"gd_{hashlib.sha256(f'{key}|{version}|{sha256}'.encode()).hexdigest()[:12]}"


def key_of(title: str, organisation: str) -> str:
    """What stays the same between versions of a document: its title without years and version numbers, and who issued it."""
    plain = re.sub(
        r"\b(?:v(?:ersion)?\.?\s*)?\d+(?:[./]\d+)*\b|\b(?:version|edition|update[ds]?|final|draft|rev(?:ision)?)\b",
        " ",
        title.lower(),
    )
    return re.sub(r"[^\w]+", " ", f"{plain} {organisation.lower()}").strip() or title.lower()


def now() -> str:
    """This moment, RFC 3339 in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def listed(row: DocumentRow, checked: str) -> Document:
    """A row as the API shows it."""
    return Document(id=row.id, document=row.title, organisation=row.organisation, version=row.version, date=row.date, source=row.source,
                    checked=checked, passages=row.passages, pages=row.pages or None, disease=row.disease, modality=row.modality,
                    body=row.body, status=row.status, added=row.added, warnings=row.warnings)  # fmt: skip


def _passage(row: Any, document: DocumentRow) -> Passage:
    about: dict[str, Any] = {"document": document.title, "organisation": document.organisation, "version": document.version,
                             "date": document.date, "disease": document.disease, "modality": document.modality,
                             "source": document.source, "body": document.body, "status": document.status}  # fmt: skip
    return Passage(id=row.id, document_id=row.document_id, section=row.section, page=row.page, text=row.text, checked="hospital",
                   strength=row.strength, start=row.start, end=row.end, **about)  # fmt: skip
