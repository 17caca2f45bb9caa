"""multipart/related bodies (RFC 2387), read and written as they come, so that memory doesn't grow with them."""

import tempfile
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from email.message import Message
from typing import IO

from python_multipart.multipart import MultipartParser, parse_options_header

from serving.errors import Problem

IN_MEMORY = 4 * 2**20
"""Bytes of a part up to which it stays in memory."""
MOST = 100_000
"""Parts of one body."""


class Part:
    """One part: its headers (lower-case names) and its bytes in a temporary file."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (closed by whoever reads the body)
        self.size = 0


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


async def parts_of(stream: AsyncIterator[bytes], boundary: bytes, limit: int) -> list[Part]:
    """The parts of a body. Raises Problem 400 where it is broken or cut off, 413 past `limit` bytes."""
    found: list[Part] = []
    name, value, ended = bytearray(), bytearray(), False

    def begin() -> None:
        if len(found) >= MOST:
            raise Problem(413, "TooLarge", f"more than {MOST} parts", "send fewer at once")
        found.append(Part())

    def header_end() -> None:
        found[-1].headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        name.clear()
        value.clear()

    def data(chunk: bytes, start: int, end: int) -> None:
        found[-1].file.write(chunk[start:end])
        found[-1].size += end - start

    def end() -> None:
        nonlocal ended
        ended = True

    parser = MultipartParser(boundary, {
        "on_part_begin": begin, "on_header_field": lambda d, a, b: name.extend(d[a:b]), "on_header_value": lambda d, a, b: value.extend(d[a:b]),
        "on_header_end": header_end, "on_part_data": data, "on_end": end,
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
    except Problem:
        close(found)
        raise
    except Exception as error:
        close(found)
        raise Problem(400, "BrokenBody", "the multipart body can't be read", "write it as RFC 2046 has it") from error
    return found


def close(parts: Iterable[Part]) -> None:
    """Drop the parts' temporary files."""
    for part in parts:
        part.file.close()


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
