"""Cut a document along its structure: a chunk never crosses a section or a page, and carries the path of its headings."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from knowledge.guidelines.ingest.document import Block, Read

MOST = 900
"""Characters of a chunk: some 180 words, inside the 256 tokens that MiniLM reads."""
LEAST = 40
_SENTENCE = re.compile(r"(?<=[.!?。；;])\s+(?=[^a-z])")
_STRENGTH = re.compile(
    r"\b(?:(?:strong|weak|conditional|moderate) (?:recommendation|for|against)|(?:strength of recommendation|recommendation|grade|class|level of evidence|"
    r"evidence(?: level| quality)?|empfehlungsgrad|evidenzgrad|grad|loe|cor)\s*[:=]?\s*(?:of recommendation\s*)?(?:strong|weak|conditional|moderate|high|low|very low|"
    r"I{1,3}[abAB]?|IV|V|[1-5][a-cA-C]?|[A-D]\+?)\b|category [123][AB]?\b|\((?:strong|weak|conditional)\))",
    re.I,
)


@dataclass(frozen=True)
class Chunk:
    """A passage to be: characters [start, end) of its page's text."""

    section: str
    page: int
    start: int
    end: int
    text: str
    strength: str | None = None


def chunks(read: Read) -> Iterator[Chunk]:
    """The document's chunks in order."""
    path: list[tuple[int, str]] = []
    waiting: list[Block] = []
    for block in read.blocks:
        if block.kind == "heading":
            yield from _packed(waiting, path, read)
            waiting = []
            while path and path[-1][0] >= block.level:
                path.pop()
            path.append((block.level, block.text))
        else:
            if waiting and (waiting[-1].page != block.page or block.kind == "table" or waiting[-1].kind == "table"):
                yield from _packed(waiting, path, read)
                waiting = []
            waiting.append(block)
    yield from _packed(waiting, path, read)


def _packed(blocks: list[Block], path: list[tuple[int, str]], read: Read) -> Iterator[Chunk]:
    """Blocks of one section and page, joined up to the size of a chunk; longer ones are cut between sentences or rows."""
    if not blocks:
        return
    section = " › ".join(t for _, t in path)[:300] or "Text"
    text = read.pages[blocks[0].page - 1]
    start = end = blocks[0].start
    for cut_start, cut_end in _pieces(blocks, text):
        if cut_end - start > MOST and end - start >= LEAST:
            yield _chunk(section, blocks[0].page, start, end, text)
            start = cut_start
        end = cut_end
    if len(text[start:end].strip()) >= (LEAST if len(blocks) > 1 else 3):
        yield _chunk(section, blocks[0].page, start, end, text)


def _pieces(blocks: list[Block], text: str) -> Iterator[tuple[int, int]]:
    for block in blocks:
        if block.end - block.start <= MOST:
            yield block.start, block.end
            continue
        marks = [
            m.end() for m in (re.compile(r"\n") if block.kind == "table" else _SENTENCE).finditer(text, block.start, block.end)
        ]
        here = block.start
        for stop in [*marks, block.end]:
            while stop - here > MOST:  # a sentence without end
                space = text.rfind(" ", here, here + MOST)
                cut = space if space > here else here + MOST
                yield here, cut
                here = cut
            if stop > here:
                yield here, stop
            here = stop


def _chunk(section: str, page: int, start: int, end: int, text: str) -> Chunk:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    body = text[start:end]
    strength = _STRENGTH.search(body)
    return Chunk(section, page, start, end, body, strength.group(0).strip("()") if strength else None)
