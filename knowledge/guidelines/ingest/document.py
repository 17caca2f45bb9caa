"""What every reader gives: blocks in reading order, the pages' texts, and what the file says of itself."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Block:
    """A heading (`level` 1 to 6), a paragraph, a list item or a table row set. `start`, `end`: its characters in its page's text."""

    kind: str
    text: str
    page: int
    start: int
    end: int
    level: int = 0


@dataclass
class Read:
    """A document as read. `pages[n - 1]` is the text of page n; formats without pages have one."""

    blocks: list[Block] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    paged: bool = False
    title: str = ""
    organisation: str = ""
    version: str = ""
    date: str = ""
    warnings: list[str] = field(default_factory=list)


class Writer:
    """Builds a Read block by block, so that spans are right by construction."""

    def __init__(self, paged: bool = False) -> None:
        self.read = Read(paged=paged)
        self._parts: list[str] = []
        self._length = 0

    def block(self, kind: str, text: str, level: int = 0) -> None:
        """Add a block to the current page; white space inside is made plain, line ends of tables stay."""
        lines = [" ".join(line.split()) for line in text.replace("\x00", "").split("\n")]
        text = "\n".join(line for line in lines if line) if kind == "table" else " ".join(" ".join(lines).split())
        if not text:
            return
        if self._parts:
            self._parts.append("\n\n")
            self._length += 2
        start = self._length
        self._parts.append(text)
        self._length += len(text)
        self.read.blocks.append(Block(kind, text, len(self.read.pages) + 1, start, self._length, level))

    def page(self) -> None:
        """End the current page."""
        self.read.pages.append("".join(self._parts))
        self._parts, self._length = [], 0

    def done(self) -> Read:
        """The document; a page that wasn't ended is ended."""
        if self._parts or not self.read.pages:
            self.page()
        return self.read
