"""multipart/related bodies (RFC 2387), read and written as they come, so that memory doesn't grow with them."""

import io
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from python_multipart.multipart import MultipartParser, parse_options_header

from serving.errors import Problem

MOST = 100_000
"""Parts of one body."""


@dataclass
class Part:
    """One part: its headers (lower-case names), and where its bytes lie in the body's file."""

    handle: int
    start: int
    headers: dict[str, str] = field(default_factory=dict)
    size: int = 0

    def open(self) -> "Section":
        """Its bytes, readable beside other parts of the same file."""
        return Section(self)


class Section(io.RawIOBase):
    """A part's bytes as a file of their own; reading moves no other reader's place."""

    def __init__(self, part: Part) -> None:
        self._part, self._at = part, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """As `io.RawIOBase` has it."""
        view = memoryview(buffer).cast("B")[: self._part.size - self._at]
        got = os.preadv(self._part.handle, [view], self._part.start + self._at) if len(view) else 0
        self._at += got
        return got

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes, or all that is left."""
        left = self._part.size - self._at
        wanted = bytearray(left if size is None or size < 0 else min(size, left))
        view = memoryview(wanted)
        done = 0
        while done < len(view) and (got := self.readinto(view[done:])):
            done += got
        return bytes(view[:done])


class Body:
    """The parts of a body, in one temporary file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self._size = 0
        self.parts: list[Part] = []

    def begin(self) -> None:
        """The next part starts."""
        if len(self.parts) >= MOST:
            raise Problem(413, "TooLarge", f"more than {MOST} parts", "send fewer at once")
        self.parts.append(Part(self._file.fileno(), self._size))

    def write(self, data: bytes | memoryview) -> None:
        """More bytes of the part that started last."""
        self._file.write(data)
        self._size += len(data)
        self.parts[-1].size += len(data)

    def whole(self) -> None:
        """Nothing more comes: readers see all of it."""
        self._file.flush()

    def close(self) -> None:
        """Drop the file."""
        self._file.close()


def boundary_of(content_type: str, wanted: str) -> bytes:
    """The boundary of a multipart/related body of parts of type `wanted`. Raises Problem 415 for another type, 400 without a boundary."""
    kind, options = parse_options_header(content_type)
    inner = options.get(b"type", b"").decode("latin-1").lower()
    if kind != b"multipart/related" or (inner and inner != wanted):
        raise Problem(415, "MediaType", f"the body isn't multipart/related; type={wanted}", f"send parts of {wanted}")
    boundary: bytes = options.get(b"boundary", b"")
    if not boundary:
        raise Problem(400, "NoBoundary", "Content-Type names no boundary", "name it, as RFC 2046 has it")
    return boundary


async def body_of(stream: AsyncIterator[bytes], boundary: bytes, limit: int) -> Body:
    """A body as it comes. Raises Problem 400 where it is broken or cut off, 413 past `limit` bytes."""
    body = Body()
    name, value, ended = bytearray(), bytearray(), False

    def header_end() -> None:
        body.parts[-1].headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        name.clear()
        value.clear()

    def end() -> None:
        nonlocal ended
        ended = True

    parser = MultipartParser(boundary, {
        "on_part_begin": body.begin, "on_header_field": lambda d, a, b: name.extend(d[a:b]), "on_header_value": lambda d, a, b: value.extend(d[a:b]),
        "on_header_end": header_end, "on_part_data": lambda d, a, b: body.write(memoryview(d)[a:b]), "on_end": end,
    })  # fmt: skip
    came = 0
    try:
        async for chunk in stream:
            came += len(chunk)
            if came > limit:
                raise Problem(413, "TooLarge", f"more than {limit >> 20} MiB", "send less at once")
            parser.write(chunk)
        if not ended:
            raise Problem(400, "CutOff", "the body ends before its last boundary", "send it whole")
        body.whole()
    except BaseException as error:
        body.close()
        if isinstance(error, Problem) or not isinstance(error, Exception):
            raise
        raise Problem(400, "BrokenBody", "the multipart body can't be read", "write it as RFC 2046 has it") from error
    return body


def written(parts: Iterable[tuple[str, str, Iterable[bytes]]], boundary: str) -> Iterator[bytes]:
    """A body of parts (content type, location, chunks)."""
    for media, location, chunks in parts:
        where = f"Content-Location: {location}\r\n" if location else ""
        yield f"--{boundary}\r\nContent-Type: {media}\r\n{where}\r\n".encode("latin-1")
        yield from chunks
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode("latin-1")


def new_boundary() -> str:
    """A boundary that is in no body."""
    return f"consilium-{uuid.uuid4().hex}"


class Accepted:
    """One entry of an Accept header: its type, the type within multipart/related, and the transfer syntax that it asks for."""

    def __init__(self, entry: str) -> None:
        told = Message()
        told["Content-Type"] = entry.strip()
        self.kind = told.get_content_type() if "/" in entry.split(";")[0] else ""
        if entry.strip().startswith("*/*"):
            self.kind = "*/*"
        self.inner = str(told.get_param("type") or "").lower()
        self.syntax = str(told.get_param("transfer-syntax") or "")
        try:
            self.weight = float(str(told.get_param("q") or 1))
        except ValueError:
            self.weight = 1.0

    @property
    def wants(self) -> str:
        """The media type of what is given, in one part or in several."""
        return (self.inner or "*/*") if self.kind == "multipart/related" else self.kind


def accepted(header: str) -> list[Accepted]:
    """What an Accept header takes, what it likes best first; everything where it is empty."""
    entries, quoted, here = [], False, ""
    for sign in header or "*/*":
        quoted ^= sign == '"'
        if sign == "," and not quoted:
            entries.append(here)
            here = ""
        else:
            here += sign
    found = [Accepted(e) for e in [*entries, here] if e.strip()]
    return sorted((f for f in found if f.kind and f.weight > 0), key=lambda f: -f.weight)
