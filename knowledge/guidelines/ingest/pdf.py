"""PDF as blocks: text by its lines and type sizes, tables where rules are drawn, scanned pages by OCR. Page numbers are kept."""

import io
import re
from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from knowledge.errors import Refused
from knowledge.guidelines.ingest.document import Writer
from knowledge.guidelines.ingest.text import table_text

MAX_PAGES = 10_000
BATCH = 10
"""Pages that one call reads, so that progress can be told and a bad page takes little with it."""
RULED = 6
"""Drawn lines or boxes from which a page may hold a table."""
TALLER = 1.12
"""A line is a heading if its type is that much taller than the document's usual one."""
_NUMBERED = re.compile(r"^(\d+(?:\.\d+){0,3})\.?\s+[A-ZÄÖÜ]")


@dataclass
class Line:
    """A line of text with the height of its type and its place from the top, in points."""

    text: str
    size: float
    top: float
    bold: bool = False


@dataclass
class Page:
    """What was found on a page; tables with their place from the top."""

    lines: list[Line] = field(default_factory=list)
    tables: list[tuple[float, float, list[list[str]]]] = field(default_factory=list)
    seen: bool = False
    """True where the words come from a picture (OCR)."""
    height: float = 0.0


@dataclass
class About:
    """What the file says of itself."""

    pages: int
    title: str
    date: str
    organisation: str


def about(data: bytes) -> About | Refused:
    """Count of pages, title, date and author. Refused: broken, encrypted, too long."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            return Refused("the PDF is encrypted", "save it without a password")
        count = len(reader.pages)
        if not 0 < count <= MAX_PAGES:
            return Refused(f"a PDF of {count} pages isn't taken (1 to {MAX_PAGES})", "split it")
        meta = reader.metadata
        made = (meta.modification_date or meta.creation_date) if meta else None
        return About(
            count,
            str(meta.title or "") if meta else "",
            made.date().isoformat() if made else "",
            str(meta.author or "") if meta else "",
        )
    except (PyPdfError, ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError, ArithmeticError, NotImplementedError,
            AssertionError) as error:  # fmt: skip
        return Refused(f"the PDF can't be read ({type(error).__name__})", "print it to PDF again")


def pages(argument: tuple[bytes, int, int]) -> list[Page] | Refused:
    """Pages [first, last) of a PDF."""
    import pypdfium2
    from pypdfium2 import PdfiumError

    data, first, last = argument
    try:
        document = pypdfium2.PdfDocument(data)
        found = [_page(document, n) for n in range(first, min(last, len(document)))]
    except PdfiumError as error:
        return Refused(f"the PDF can't be read ({error})", "print it to PDF again")
    ruled = [n for n, (_, rules) in enumerate(found) if rules >= RULED]
    if ruled:
        _tables(data, [p for p, _ in found], first, ruled)
    return [p for p, _ in found]


def picture(argument: tuple[bytes, int]) -> bytes | Refused:
    """A page (from 1) as PNG, some 1,200 pixels high."""
    import pypdfium2
    from pypdfium2 import PdfiumError

    data, number = argument
    try:
        page = pypdfium2.PdfDocument(data)[number - 1]
        image = page.render(scale=min(1200 / max(page.get_height(), 1.0), 3.0)).to_pil()
    except (PdfiumError, IndexError, ValueError) as error:
        return Refused(f"the page can't be drawn ({type(error).__name__})", "open the original")
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _page(document: Any, number: int) -> tuple[Page, int]:
    import pypdfium2.raw as raw

    page = document[number]
    height = page.get_height()
    text = page.get_textpage()
    found = Page(height=height)
    whole = text.get_text_range() if text.count_chars() else ""
    place = 0
    for piece in re.split(r"(\r\n|\n|\r)", whole):
        if piece.strip():
            lead = place + len(piece) - len(piece.lstrip())
            box = text.get_charbox(min(lead, text.count_chars() - 1), loose=True)
            size = raw.FPDFText_GetFontSize(text.raw, lead)
            weight = raw.FPDFText_GetFontWeight(text.raw, lead)
            tall = box[3] - box[1]
            found.lines.append(
                Line(piece.strip(), round(size if size > 2 else tall, 1), round(height - box[3], 1), weight >= 600)
            )
        place += len(piece)
    objects = 0
    for one in page.get_objects(max_depth=1):
        objects += one.type == raw.FPDF_PAGEOBJ_PATH
        if objects >= RULED:
            break
    if sum(len(line.text) for line in found.lines) < 20:
        from knowledge.studies.deidentify.ocr import lines_in

        words = lines_in(page.render(scale=2).to_numpy())
        if words:
            found = Page([Line(w, 10.0, float(n)) for n, w in enumerate(words)], [], True, height)
    page.close()
    return found, objects


def _tables(data: bytes, found: list[Page], first: int, ruled: list[int]) -> None:
    """Tables of the ruled pages; their lines are taken out of the running text."""
    import pdfplumber

    with pdfplumber.open(io.BytesIO(data), pages=[first + n + 1 for n in ruled]) as document:
        for place, page in zip(ruled, document.pages, strict=False):
            for table in page.find_tables():
                rows = [[(c or "") for c in row] for row in table.extract()]
                if len(rows) > 1 and max(len(r) for r in rows) > 1:
                    _, top, _, bottom = table.bbox
                    found[place].tables.append((top, bottom, rows))
            page.close()
    for n in ruled:
        page = found[n]
        page.lines = [line for line in page.lines if not any(top - 1 <= line.top < bottom for top, bottom, _ in page.tables)]


def compose(found: list[Page]) -> Writer:
    """Blocks of all pages: repeated heads and feet dropped, broken lines joined, headings by type size or number."""
    writer = Writer(paged=True)
    repeated = _repeated(found)
    sizes = [line.size for page in found for line in page.lines if not page.seen for _ in range(len(line.text) // 20 + 1)]
    usual = median(sizes) if sizes else 10.0
    levels = {
        size: n
        for n, size in enumerate(
            sorted({line.size for p in found for line in p.lines if line.size > TALLER * usual}, reverse=True), 1
        )
    }
    for page in found:
        tables = sorted(page.tables, key=lambda t: t[0])
        paragraph: list[str] = []
        before: Line | None = None

        def flush(paragraph: list[str] = paragraph) -> None:
            writer.block("paragraph", _joined(paragraph))
            paragraph.clear()

        for line in page.lines:
            if _shape(line.text) in repeated and not page.seen:
                continue
            while tables and tables[0][0] < line.top:
                flush()
                writer.block("table", table_text(tables.pop(0)[2]))
            level = _level(line, usual, levels, page.seen)
            gap = before is not None and line.top - before.top > 2.2 * max(before.size, 6.0)
            if level:
                flush()
                writer.block("heading", line.text, level)
            elif re.match(r"^[•▪●–\-*]\s+|^\(?[a-z0-9]\)\s", line.text):
                flush()
                paragraph.append(re.sub(r"^[•▪●*]\s+", "", line.text))
            else:
                if gap or (before is not None and line.top < before.top - 20):
                    flush()
                paragraph.append(line.text)
            before = line
        flush()
        for table in tables:
            writer.block("table", table_text(table[2]))
        writer.page()
    return writer


def _joined(lines: list[str]) -> str:
    text = ""
    for line in lines:
        if text.endswith("-") and line[:1].islower():
            text = text[:-1] + line
        else:
            text = f"{text} {line}" if text else line
    return text.replace("\ufffe", "").replace("\xad", "")


def _shape(text: str) -> str:
    return re.sub(r"\d+", "#", text.strip().lower())


def _repeated(found: list[Page]) -> set[str]:
    """Lines at the top or foot that come back on half of the pages, page numbers aside."""
    if len(found) < 4:
        return set()
    ends: Counter[str] = Counter()
    for page in found:
        ends.update({_shape(line.text) for line in [*page.lines[:2], *page.lines[-2:]]})
    return {text for text, count in ends.items() if count >= len(found) / 2}


def _level(line: Line, usual: float, levels: dict[float, int], seen: bool) -> int:
    """The heading's level, 0 for running text."""
    if seen or len(line.text) > 160 or len(line.text) < 3:
        return 0
    numbered = _NUMBERED.match(line.text)
    closed = line.text.rstrip().endswith((".", ",", ";"))
    if line.size > TALLER * usual and not closed:
        return min(levels.get(line.size, 1), 6)
    if numbered and (line.bold or not closed) and len(line.text) < 90 and line.bold:
        return min(numbered.group(1).count(".") + 2, 6)
    return 4 if line.bold and not closed and len(line.text) < 90 and len(line.text.split()) <= 12 else 0
