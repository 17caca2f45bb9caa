"""HTML, Markdown, plain text and DOCX as blocks. Scripts, styles and comments are never text."""

import re
from datetime import date
from typing import Any

import yaml

from knowledge.errors import Refused
from knowledge.guidelines.ingest.document import Read, Writer
from knowledge.records.documents import word

_NO_TEXT = (
    "script",
    "style",
    "noscript",
    "template",
    "iframe",
    "object",
    "embed",
    "svg",
    "head",
    "nav",
    "form",
    "button",
    "select",
)
_DATE_META = ("article:modified_time", "article:published_time", "citation_publication_date", "citation_date", "dc.date", "dcterms.modified", "date",
              "last-modified")  # fmt: skip


def markdown(data: bytes) -> Read | Refused:
    """Markdown (also plain text), with YAML front matter where there is one."""
    from markdown_it import MarkdownIt

    text = _decoded(data)
    about: dict[str, Any] = {}
    if match := re.match(r"\A---[ \t]*\n(.*?)\n---[ \t]*\n", text, re.S):
        try:
            loaded = yaml.safe_load(match.group(1))
            about = loaded if isinstance(loaded, dict) else {}
            text = text[match.end() :]
        except yaml.YAMLError:
            about = {}
    writer = Writer()
    tokens = MarkdownIt("commonmark", {"html": False}).enable("table").parse(text)
    rows: list[list[str]] = []
    kind, level, in_table = "paragraph", 0, False
    for token in tokens:
        if token.type == "heading_open":
            kind, level = "heading", int(token.tag[1])
        elif token.type == "list_item_open":
            kind = "item"
        elif token.type == "table_open":
            rows, in_table = [], True
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "table_close":
            writer.block("table", table_text(rows))
            in_table = False
        elif token.type == "inline" and in_table:
            rows[-1].append(_inline(token))
        elif token.type == "inline":
            writer.block(kind, _inline(token), level if kind == "heading" else 0)
            kind = "paragraph" if kind == "heading" else kind
        elif token.type in ("fence", "code_block"):
            writer.block("paragraph", token.content)
        elif token.type == "list_item_close":
            kind = "paragraph"
    read = writer.done()
    for name in ("title", "organisation", "version", "date"):
        setattr(read, name, str(about.get(name) or about.get("document" if name == "title" else name) or ""))
    return read


def _inline(token: Any) -> str:
    return " ".join(c.content for c in token.children or [] if c.type in ("text", "code_inline")) or token.content


def html(data: bytes) -> Read | Refused:
    """A web page: its headings, paragraphs, list items and tables."""
    from bs4 import BeautifulSoup, Comment
    from bs4.element import Tag

    soup = BeautifulSoup(_decoded(data), "html.parser")
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    metas = {str(m.get("name") or m.get("property") or "").lower(): str(m.get("content") or "") for m in soup.find_all("meta")}
    for found in soup.find_all(_NO_TEXT):
        found.decompose()
    for hidden in [*soup.find_all(string=lambda s: isinstance(s, Comment))]:
        hidden.extract()
    writer = Writer()

    def put(kind: str, words: str, level: int = 0) -> None:
        writer.block(kind, re.sub(r"\s+([.,;:!?)])", r"\1", words), level)

    def walk(node: Any) -> None:
        loose: list[str] = []

        def flush() -> None:
            put("paragraph", " ".join(loose))
            loose.clear()

        for child in node.children:
            if not isinstance(child, Tag):
                loose.append(str(child))
            elif re.fullmatch(r"h[1-6]", child.name):
                flush()
                put("heading", child.get_text(" "), int(child.name[1]))
            elif child.name == "table":
                flush()
                rows = [[c.get_text(" ", strip=True) for c in row.find_all(["td", "th"])] for row in child.find_all("tr")]
                writer.block("table", table_text(rows))
            elif child.name == "li":
                flush()
                put("item", child.get_text(" "))
            elif child.name in ("p", "blockquote", "pre", "dd", "dt", "figcaption"):
                flush()
                put("paragraph", child.get_text(" "))
            elif child.find(re.compile(r"^(h[1-6]|p|table|li|div|section|article|ul|ol|main|dl)$")):
                flush()
                walk(child)
            else:
                loose.append(child.get_text(" "))
        flush()

    walk(soup.body or soup)
    read = writer.done()
    read.title = title
    read.date = next((metas[m][:10] for m in _DATE_META if re.match(r"\d{4}(-\d{2}(-\d{2})?)?", metas.get(m, ""))), "")
    read.organisation = metas.get("og:site_name") or metas.get("dc.publisher") or metas.get("author", "")
    return read


def docx(data: bytes) -> Read | Refused:
    """A Word document, by its styles."""
    return word(data, _by_style)


def _by_style(document: Any) -> Read:
    from docx.table import Table

    writer = Writer()
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            writer.block("table", table_text([[c.text.strip() for c in row.cells] for row in block.rows]))
            continue
        style = (block.style.name if block.style is not None else "") or ""
        match = re.match(r"(?:Heading|Überschrift|Titre|Título) (\d)", style)
        if style == "Title" or match:
            writer.block("heading", block.text, int(match.group(1)) if match else 1)
        else:
            writer.block("item" if style.startswith("List") else "paragraph", block.text)
    read = writer.done()
    core = document.core_properties
    read.title, read.version = core.title or "", core.version or ""
    read.date = core.modified.date().isoformat() if core.modified else ""
    return read


def table_text(rows: list[list[str]]) -> str:
    """A table as lines: each row with the head's names, so that a row can be understood by itself."""
    rows = [[" ".join((c or "").split()) for c in row] for row in rows if any((c or "").strip() for c in row)]
    if not rows:
        return ""
    if len(rows) == 1:
        return " | ".join(rows[0])
    head = rows[0]
    lines = []
    for row in rows[1:]:
        cells = [f"{h}: {c}" if h and h != c else c for h, c in zip([*head, *[""] * len(row)], row, strict=False) if c]
        lines.append("; ".join(cells))
    return "\n".join(lines)


def _decoded(data: bytes) -> str:
    for encoding in ("utf-8-sig", "utf-16") if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def year_in(text: str) -> str:
    """The newest plausible year that a title names, if any."""
    years = [y for y in re.findall(r"\b(?:19[89]\d|20\d\d)\b", text) if int(y) <= date.today().year + 1]
    return max(years, default="")
