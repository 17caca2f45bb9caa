"""Reports as documents: the text of PDF, DOCX and RTF, read in a process that can be killed."""

import io
from collections.abc import Callable
from typing import Any, TypeVar

from knowledge.errors import Refused
from knowledge.studies import workers

T = TypeVar("T")
MAX_PAGES = 400
MAX_CHARACTERS = 200_000
MAX_BYTES = 64 * 2**20
SECONDS = 60.0


def kind_of(name: str, head: bytes) -> str | None:
    """pdf, docx or rtf by content; None for other files."""
    if b"%PDF-" in head[:1024]:
        return "pdf"
    if head[:5] == b"{\\rtf":
        return "rtf"
    if head[:4] == b"PK\x03\x04":
        return "docx"
    if head[:8] == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        raise Refused("old Word documents (.doc) aren't read", "save it as .docx or PDF")
    return None


def text_of(name: str, data: bytes) -> str:
    """The text of a document, pages and paragraphs in order. Raises Refused: broken, encrypted, no text in it."""
    kind = kind_of(name, data[:1024])
    if kind is None:
        raise Refused("it is no PDF, DOCX or RTF", "send the report as one of these, or as text")
    if len(data) > MAX_BYTES:
        raise Refused("the document is too large", "send it in parts")
    found = workers.run(READERS[kind], data, SECONDS)
    if isinstance(found, Refused):
        raise found
    text = str(found).replace("\x00", "").strip()
    if not text:
        raise Refused("the document holds no text, not even in its pictures", "send the report as text")
    if len(text) > MAX_CHARACTERS:
        raise Refused(f"a report of {len(text)} characters is too long", "send reports one by one")
    return text


def _pdf(data: bytes) -> str | Refused:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            return Refused("the PDF is encrypted", "save it without a password")
        if len(reader.pages) > MAX_PAGES:
            return Refused(f"a PDF of {len(reader.pages)} pages is no report", "add guidelines with `guidelines add`")
        pages = [page.extract_text().strip() for page in reader.pages]
        scanned = [n for n, text in enumerate(pages) if not text]
        for number, text in zip(scanned, _read_by_eye(data, scanned), strict=True):
            pages[number] = text
        return "\n\n".join(p for p in pages if p)
    except (PyPdfError, ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError, ArithmeticError, NotImplementedError,
            AssertionError) as error:  # fmt: skip
        return Refused(f"the PDF can't be read ({type(error).__name__})", "print it to PDF again")


def _read_by_eye(data: bytes, pages: list[int]) -> list[str]:
    """The words in the pictures of scanned pages (OCR), line by line."""
    if not pages:
        return []
    import pypdfium2

    from knowledge.studies.deidentify.ocr import lines_in

    document = pypdfium2.PdfDocument(data)
    return ["\n".join(lines_in(document[n].render(scale=2).to_numpy())) for n in pages]


def word(data: bytes, read: Callable[[Any], T]) -> T | Refused:
    """`read` done on a Word document (python-docx). Refused: broken, or it unpacks to far more than it should."""
    import zipfile

    from docx import Document
    from docx.opc.exceptions import PackageNotFoundError

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            if sum(m.file_size for m in package.infolist()) > 8 * MAX_BYTES:
                return Refused("the document unpacks to far more than it should", "save it again, without pictures")
        return read(Document(io.BytesIO(data)))
    except (
        PackageNotFoundError,
        zipfile.BadZipFile,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OSError,
        SyntaxError,
    ) as error:
        return Refused(f"the Word document can't be read ({type(error).__name__})", "save it as PDF or text")


def _docx(data: bytes) -> str | Refused:
    return word(data, _lines)


def _lines(document: Any) -> str:
    from docx.table import Table

    parts = []
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            parts += [" | ".join(cell.text.strip() for cell in row.cells) for row in block.rows]
        else:
            parts.append(block.text)
    return "\n".join(parts)


def _rtf(data: bytes) -> str | Refused:
    from striprtf.striprtf import rtf_to_text

    try:
        return str(rtf_to_text(data.decode("latin-1"), errors="ignore"))
    except (ValueError, LookupError, TypeError, AttributeError, UnicodeError) as error:
        return Refused(f"the RTF can't be read ({type(error).__name__})", "save it as PDF or text")


READERS = {"pdf": _pdf, "docx": _docx, "rtf": _rtf}
