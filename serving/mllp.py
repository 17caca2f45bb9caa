"""HL7 v2 over MLLP: results, patients and orders come in; each is answered AA only once it is kept, else AE or AR with the reason (v2.5.1, 2.9.2).

Only hosts on the list are let in; MLLP itself knows no keys, so it belongs on a network segment of its own or behind a TLS tunnel.
"""

import asyncio
import logging
import re
import uuid
from datetime import UTC, datetime

import hl7
from hl7.client import MLLPClient
from hl7.mllp import HL7StreamReader, HL7StreamWriter, InvalidBlockError, start_hl7_server

from knowledge.errors import Refused, StorageFailed
from knowledge.records.hl7 import LacksField, UnknownMessage, read_messages
from knowledge.studies.archive import Archive
from knowledge.studies.intake import Hints
from knowledge.studies.unpack import from_bytes
from serving.errors import NotTaken

log = logging.getLogger("consilium.mllp")
MOST = 32 * 2**20
"""Bytes of a message."""
IDLE_S = 600
CODES = {"100": "Segment sequence error", "101": "Required field missing", "200": "Unsupported message type", "201": "Unsupported event code",
         "203": "Unsupported version id", "207": "Application internal error"}  # fmt: skip
"""HL7 table 0357."""


class Listener:
    """Our end of MLLP, from `start` to `stop`."""

    def __init__(self, archive: Archive, allowed: list[str]) -> None:
        self.archive, self.allowed = archive, allowed
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> None:
        """Listen."""
        self._server = await start_hl7_server(
            self._connected, host, port, limit=MOST, encoding="utf-8", encoding_errors="replace"
        )

    async def stop(self) -> None:
        """Listen no more; connections are closed."""
        if self._server is not None:
            self._server.close()
            for task in list(self._open):
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    async def _connected(self, reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        caller = str(writer.get_extra_info("peername")[0])
        try:
            if caller not in self.allowed:
                log.warning("a host that isn't in mllp_allowed called, and was turned away")
                return
            while True:
                block = await asyncio.wait_for(reader.readblock(), IDLE_S)
                writer.writeblock(await asyncio.to_thread(self.answer, block, caller))
                await writer.drain()
        except (
            asyncio.IncompleteReadError,
            InvalidBlockError,
            TimeoutError,
            ValueError,
            ConnectionError,
            asyncio.LimitOverrunError,
        ):
            return  # the sender closed, was silent, or doesn't speak MLLP; nothing of the last message was kept
        finally:
            self._open.discard(task)
            writer.close()

    def answer(self, block: bytes, caller: str = "local") -> bytes:
        """Keep a message, and its acknowledgement."""
        text = block.decode("utf-8", "replace").replace("\r\n", "\r").replace("\n", "\r")
        if not re.match(r"MSH[|^~]", text):
            return _ack("", "AR", "100", "the message doesn't begin with MSH")
        try:
            read_messages(block)
            done = self.archive.add(from_bytes("message.hl7", block), Hints(), f"HL7 {caller}")
            if done.rejected:
                return _ack(text, "AE", "207", done.rejected[0].reason)
        except UnknownMessage as refusal:
            return _ack(text, "AR", "201" if refusal.event else "200", str(refusal))
        except LacksField as refusal:
            return _ack(text, "AE", "101", str(refusal))
        except Refused as refusal:
            return _ack(text, "AE", "100", str(refusal))
        except StorageFailed:
            return _ack(text, "AE", "207", "it can't be kept now: send it again later")
        except Exception as error:  # noqa: BLE001 (whatever it is, the sender keeps the message and is told so)
            log.error("an HL7 message couldn't be kept: %s", type(error).__name__)
            return _ack(text, "AE", "207", "it can't be kept: send it again later")
        return _ack(text, "AA")


def _ack(text: str, code: str, error: str = "", words: str = "") -> bytes:
    """An acknowledgement; what was wrong stands in ERR."""
    fields = text.split("\r")[0].split("|") if text.startswith("MSH|") else []
    fields += [""] * (20 - len(fields))
    trigger = [*fields[8].split("^"), "", ""][1]
    kind = f"ACK^{trigger}^ACK" if trigger else "ACK"
    now = datetime.now(UTC).strftime("%Y%m%d%H%M%S+0000")
    version = fields[11].split("^")[0] or "2.5.1"
    rows = [f"MSH|^~\\&|CONSILIUM|CONSILIUM|{fields[2]}|{fields[3]}|{now}||{kind}|{uuid.uuid4().hex[:20]}|{fields[10] or 'P'}|{version}||||||UNICODE UTF-8",
            f"MSA|{code}|{fields[9]}"]  # fmt: skip
    if error:
        plain = re.sub(r"[|^~\\&\r\n]", " ", words)[:250]
        rows.append(f"ERR|||{error}^{CODES[error]}^HL70357|E||||{plain}")
    return ("\r".join(rows) + "\r").encode()


class NotAccepted(NotTaken):
    """The receiver didn't answer AA; the text says what it said."""


def send(address: str, message: bytes, seconds: float = 20.0) -> None:
    """Send a message to host:port. Raises NotAccepted, or OSError where it can't be reached."""
    host, _, port = address.rpartition(":")
    with MLLPClient(host, int(port)) as client:
        client.socket.settimeout(seconds)
        reply = client.send_message(message)
    try:
        told = hl7.parse(reply.decode("utf-8", "replace").strip("\x0b\x1c\r") + "\r").segment("MSA")
        code = str(told[1])
    except (hl7.HL7Exception, LookupError) as error:
        raise NotAccepted("it answered without an acknowledgement") from error
    if code not in ("AA", "CA"):
        raise NotAccepted(f"it answered {code}")
