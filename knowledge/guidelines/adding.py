"""Take documents into the library: read, cut, embed, publish. A file that can't be read is named; the rest goes in."""

import fcntl
import hashlib
import re
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from knowledge.errors import KnowledgeError, Refused
from knowledge.evidence import Frozen
from knowledge.guidelines.corpus import CHECKED
from knowledge.guidelines.embedders import slug
from knowledge.guidelines.ingest import pdf, text
from knowledge.guidelines.ingest.chunks import Chunk, chunks
from knowledge.guidelines.ingest.document import Read
from knowledge.guidelines.library import Document, DocumentRow, identity, key_of, listed, now
from knowledge.guidelines.search import GuidelineIndex
from knowledge.studies import workers

KNOWN = "PDF, HTML, Markdown, plain text or DOCX; a rule as .yaml"
MAX_BYTES = 512 * 2**20
SECONDS = 240.0
"""What one batch of pages (or one text document) may take; OCR of ten pages is the slowest."""
MAX_CHUNKS = 200_000
Told = Callable[[str, str, int, int], None]
"""Progress: file, stage (reading, embedding), done, total."""

DISEASES = {
    "brain": r"\bbrain|\bglio|cerebr|intracranial|\bcns\b|mening|hirn|cérébr", "lung": r"\blung|pulmon|thorac|bronch|nsclc|\blunge",
    "liver": r"\bliver|hepat|\bleber|\bfoie|hígado", "breast": r"\bbreast|mammo|\bbrust|\bsein\b|\bmama", "prostate": r"prostat",
    "kidney": r"\bkidney|\brenal|nephr|\bniere|\brein\b", "thyroid": r"thyro|schilddr", "lymphoma": r"lymphom", "ovary": r"ovar|adnex",
    "colon": r"colorect|colon\b|rectal", "pancreas": r"pancrea|pankrea", "skin": r"melanom", "contrast safety": r"contrast (media|medium|agent)|gadolin|kontrastmittel",
}  # fmt: skip


class About(Frozen):
    """What the person who adds a file says of it; what isn't said is taken from the file."""

    document: str | None = None
    organisation: str | None = None
    version: str | None = None
    date: str | None = None
    source: str | None = None
    disease: list[str] = []
    modality: list[str] = []
    body: str | None = None


class RefusedFile(Frozen):
    """A file that wasn't taken, and why."""

    file: str
    reason: str


class Added(Frozen):
    """What came of an addition."""

    documents: list[Document]
    rejected: list[RefusedFile]
    rules: list[str] = []


@dataclass
class Adder:
    """Adds documents one after the other; searches go on meanwhile."""

    index: GuidelineIndex
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, files: Iterable[tuple[str, bytes]], about: About | None = None, told: Told = lambda file, stage, done, total: None,
            cancelled: Callable[[], bool] = lambda: False) -> Added:  # fmt: skip
        """Take each file whole or not at all. The same file again changes nothing; a newer version supersedes the older one."""
        done: list[Document] = []
        rejected: list[RefusedFile] = []
        with self._alone():
            for left in self.index.library.sweep():
                rejected.append(
                    RefusedFile(file=left, reason="an earlier addition was interrupted: what it left was taken out, add it again")
                )
            for name, data in files:
                try:
                    done.append(self._one(name, data, about or About(), told, cancelled))
                except KnowledgeError as error:
                    rejected.append(RefusedFile(file=name, reason=f"{error}: {error.hint}" if error.hint else str(error)))
        return Added(documents=done, rejected=rejected)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One change of the library at a time, in this process and any other: what another is adding must not be swept."""
        folder = self.index.library.folder
        folder.mkdir(parents=True, exist_ok=True)
        with self._lock, (folder / "adding.lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield

    def _one(self, name: str, data: bytes, about: About, told: Told, cancelled: Callable[[], bool]) -> Document:
        library = self.index.library
        sha = hashlib.sha256(data).hexdigest()
        known = library.by_content(sha)
        if known is not None:
            return listed(known, CHECKED["hospital"])
        kind = kind_of(name, data)
        read = _read(name, data, kind, lambda n, total: told(name, "reading", n, total), cancelled)
        cut = list(chunks(read))
        if not cut:
            raise Refused("it holds no text, not even in its pictures", "add a version with text")
        if len(cut) > MAX_CHUNKS:
            raise Refused(f"it has {len(cut)} passages, more than {MAX_CHUNKS}", "split it")
        row = _described(name, sha, kind, read, cut, about)
        same = [d for d in library.documents() if d.key == row.key]
        newer = [d for d in same if d.status == "current" and row.date and _sort(d.date, d.added) > _sort(row.date, row.added)]
        library.keep(row, read.pages, cut, data, read.paged)
        body, document_id = row.body, row.id
        if newer:
            library.publish(document_id, "superseded", [])
        else:

            def tell(n: int, total: int) -> None:
                if cancelled():
                    raise Refused("the addition was stopped", "add it again")
                told(name, "embedding", n, total)

            try:
                self.index.bodies.put(body, document_id, tell)
            except BaseException:
                library.discard(document_id)
                raise
            library.publish(document_id, "current", [d.id for d in same if d.status == "current"])
        self.index.bodies.shelves()
        return listed(library.document(document_id), CHECKED["hospital"])

    def remove(self, document_id: str) -> None:
        """Take a version out; an older one doesn't come back by itself. Raises NotFound."""
        with self._alone():
            self.index.library.remove(document_id)
            self.index.bodies.shelves()


def _sort(date: str, added: str) -> tuple[str, str]:
    return date or "0000", added


def kind_of(name: str, data: bytes) -> str:
    """pdf, html, md or docx, by content first. Raises Refused."""
    if not data:
        raise Refused("it is empty", f"add {KNOWN}")
    if len(data) > MAX_BYTES:
        raise Refused(f"it is larger than {MAX_BYTES >> 20} MiB", "split it")
    head = data[:2048].lstrip().lower()
    suffix = PurePosixPath(name).suffix.lower()
    if b"%pdf-" in data[:1024].lower():
        return "pdf"
    if data[:4] == b"PK\x03\x04":
        if _has_word(data):
            return "docx"
        raise Refused("it is a zip, not a Word document", "add its files one by one")
    if suffix in (".html", ".htm", ".xhtml") or head.startswith((b"<!doctype html", b"<html")):
        return "html"
    if suffix == ".pdf":
        raise Refused("the PDF is broken: it doesn't begin as one", "print it to PDF again")
    if suffix in (".md", ".markdown", ".txt", ".text", ""):
        if b"\x00" in data[:4096]:
            raise Refused("it isn't text", f"add {KNOWN}")
        return "md"
    raise Refused(f"files like {suffix or 'this'} aren't read", f"add {KNOWN}")


def _has_word(data: bytes) -> bool:
    import io

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            return "word/document.xml" in package.namelist()
    except (zipfile.BadZipFile, ValueError, OSError):
        return False


def _read(name: str, data: bytes, kind: str, told: Callable[[int, int], None], cancelled: Callable[[], bool]) -> Read:
    if kind != "pdf":
        found = workers.run({"html": text.html, "md": text.markdown, "docx": text.docx}[kind], data, SECONDS)
        if isinstance(found, Refused):
            raise found
        told(1, 1)
        read: Read = found
        return read
    about = workers.run(pdf.about, data, SECONDS)
    if isinstance(about, Refused):
        raise about
    size = max(pdf.BATCH, about.pages // 100)  # each call opens the file again: long ones in longer runs
    starts = range(0, about.pages, size)
    found_pages: list[pdf.Page] = []
    told(0, about.pages)
    with ThreadPoolExecutor(2) as threads:
        for batch in threads.map(lambda s: workers.run(pdf.pages, (data, s, s + size), SECONDS), starts):
            if cancelled():
                threads.shutdown(wait=False, cancel_futures=True)
                raise Refused("the addition was stopped", "add it again")
            if isinstance(batch, Refused):
                raise batch
            found_pages += batch
            told(len(found_pages), about.pages)
    read = pdf.compose(found_pages).done()
    read.title, read.date, read.organisation = about.title, about.date, about.organisation
    seen = [n for n, p in enumerate(found_pages, 1) if p.seen]
    if seen:
        read.warnings.append(f"{len(seen)} of {about.pages} pages hold pictures alone: their words were read by OCR")
    empty = sum(not p for p in read.pages)
    if empty:
        read.warnings.append(f"{empty} of {about.pages} pages hold no text")
    return read


def _described(name: str, sha: str, kind: str, read: Read, cut: Sequence[Chunk], about: About) -> DocumentRow:
    stem = re.sub(r"[_\-]+", " ", PurePosixPath(name).stem).strip() or "document"
    first = next((b.text for b in read.blocks if b.kind == "heading" and b.page == 1), "")
    title = " ".join((about.document or read.title or first or stem).split())[:300]
    if re.fullmatch(r"(microsoft word - .*|untitled.*|document\d*|anonymous)", title, re.I):
        title = first or stem
    organisation = (about.organisation or read.organisation or "hospital").strip()[:200]
    if organisation.lower() in ("anonymous", "unknown", "unspecified", "python-docx"):
        organisation = "hospital"
    year = text.year_in(f"{title} {stem}")
    date = about.date or (read.date if not year or read.date[:4] == year else "") or year
    version = (about.version or read.version or year or date or "1").strip()[:100]
    warnings = list(read.warnings)
    if not date:
        warnings.append("no date was found in it: name one, so that versions can be told apart")
    whole = f"{title} {stem} " + " ".join(c.text for c in cut[:400])
    disease = [d.lower() for d in about.disease] or diseases_in(title, whole)
    body = slug(about.body or (disease[0] if disease else "general"))
    body = f"{body}-own" if body in ("box", "old") else body
    key = key_of(title, organisation if organisation != "hospital" else "")
    return DocumentRow(id=identity(key, version, sha), key=key, title=title, organisation=organisation, version=version, date=date,
                       source=about.source or PurePosixPath(name).name, sha256=sha, kind=kind, pages=len(read.pages) if read.paged else 0,
                       passages=len(cut), body=body, disease=disease, modality=[m.upper() for m in about.modality], status="adding",
                       added=now(), warnings=warnings)  # fmt: skip


def diseases_in(title: str, whole: str) -> list[str]:
    """Organs and diseases that a document is about: named in its title, or often in its text; most often first."""
    words = max(len(whole.split()), 1)
    counts = {name: len(re.findall(pattern, whole, re.I)) for name, pattern in DISEASES.items()}
    named = {name for name, pattern in DISEASES.items() if re.search(pattern, title, re.I)}
    kept = [n for n, c in counts.items() if n in named or c / words > 0.008]
    return sorted(kept, key=lambda n: (n not in named, -counts[n]))
