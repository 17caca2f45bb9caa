"""A Python client: `from serving.client import Consilium` (and `AsyncConsilium`), with the very types that the API's schema is made from.

    with Consilium("http://127.0.0.1:8420", key="ck_…") as house:
        house.upload(["scan/"])
        answer = house.ask("How big is the tumour?", patient_id="P1")
        [study] = house.studies("P1")
        image = house.volume(study, study.series[0])

For researchers: a series and a mask as arrays with their affine, an answer's numbers as a table.
"""

import io
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar, cast
from urllib.parse import quote

import httpx
import numpy as np
from pydantic import TypeAdapter

from agent.answer import Answer
from knowledge.evidence import Evidence, ImageRef
from knowledge.studies.archive import Import
from knowledge.studies.model import Series, Study
from serving.api.conversations import Opened, Pinned, Shown
from serving.api.tools import Ran

T = TypeVar("T")
SECONDS = 600.0
"""An answer may run several models."""


class Refused(Exception):
    """The server says no: `status`, what is wrong (the text), and `hint`, what to do."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(f"{message}. {hint}".strip(". ") if hint else message)
        self.status, self.hint = status, hint


class Event(NamedTuple):
    """One event of an answer in the making: its name (plan, tool.started, text.delta, answer …) and data."""

    name: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Array:
    """Voxels [column, row, slice] with the affine that maps their indices to millimetres in RAS+ (as NIfTI has it)."""

    array: np.ndarray
    affine: np.ndarray

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbours along each axis."""
        x, y, z = (float(v) for v in np.linalg.norm(self.affine[:3, :3], axis=0))
        return x, y, z


@dataclass(frozen=True)
class _Call(Generic[T]):
    """One request, and what its reply is read as."""

    method: str
    path: str
    reads: Any
    params: dict[str, Any] | None = None
    body: Any = None

    def reply(self, response: httpx.Response) -> T:
        return cast(T, self.reads(checked(response)))


def _as(kind: Any) -> Any:
    adapter = TypeAdapter(kind)
    return lambda response: adapter.validate_json(response.content)


def checked(response: httpx.Response) -> httpx.Response:
    """The response. Raises Refused with the server's own words where it isn't a success."""
    if response.is_success:
        return response
    try:
        told = response.json()
    except ValueError:
        told = {}
    raise Refused(response.status_code, str(told.get("detail") or f"HTTP {response.status_code}"), str(told.get("hint") or ""))


def _array(response: httpx.Response) -> Array:
    import gzip

    import nibabel as nib

    data = response.content
    image = nib.Nifti1Image.from_bytes(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    return Array(np.asanyarray(image.dataobj), np.asarray(image.affine))


def _events(lines: Iterable[str]) -> Iterator[Event]:
    name, data = "", ""
    for line in lines:
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data += line[5:].strip()
        elif not line and data:
            yield Event(name, json.loads(data))
            name, data = "", ""


def _path(*parts: str) -> str:
    return "/v1/" + "/".join(quote(p, safe="") for p in parts)


def _files(paths: Iterable[Path | str]) -> list[Path]:
    given = [Path(p) for p in paths]
    return [f for p in given for f in ([p] if p.is_file() else sorted(q for q in p.rglob("*") if q.is_file()))]


@contextmanager
def _opened(files: Sequence[Path]) -> Iterator[list[tuple[str, tuple[str, Any]]]]:
    with ExitStack() as stack:
        yield [("files", (f.name, stack.enter_context(f.open("rb")))) for f in files]


class _Calls:
    """What can be asked of a server, said once for both clients."""

    @staticmethod
    def patients() -> _Call[list[str]]:
        return _Call("GET", "/v1/patients", _as(list[str]))

    @staticmethod
    def studies(patient_id: str | None) -> _Call[list[Study]]:
        return _Call("GET", "/v1/studies", _as(list[Study]), {"patient_id": patient_id} if patient_id else None)

    @staticmethod
    def study(study_id: str) -> _Call[Study]:
        return _Call("GET", _path("studies", study_id), _as(Study))

    @staticmethod
    def volume(study_id: str, series_id: str) -> _Call[Array]:
        return _Call("GET", _path("studies", study_id, "series", series_id, "volume.nii.gz"), _array)

    @staticmethod
    def masks(study_id: str, series_id: str) -> _Call[list[str]]:
        return _Call("GET", _path("studies", study_id, "series", series_id, "masks"), _as(list[str]))

    @staticmethod
    def mask(study_id: str, series_id: str, name: str) -> _Call[Array]:
        return _Call("GET", _path("studies", study_id, "series", series_id, "masks", name), _array)

    @staticmethod
    def tools() -> _Call[list[dict[str, Any]]]:
        return _Call("GET", "/v1/tools", _as(list[dict[str, Any]]))

    @staticmethod
    def run(name: str, patient_id: str | None, study_ids: Sequence[str] | None, arguments: dict[str, Any]) -> _Call[Ran]:
        body = {"patient_id": patient_id, "study_ids": list(study_ids) if study_ids else None, "arguments": arguments}
        return _Call("POST", _path("tools", name), _as(Ran), body=body)

    @staticmethod
    def conversation(patient_id: str | None, study_ids: Sequence[str] | None) -> _Call[Opened]:
        body = {"patient_id": patient_id, "study_ids": list(study_ids) if study_ids else None}
        return _Call("POST", "/v1/conversations", _as(Opened), body=body)

    @staticmethod
    def pin(conversation_id: str, tools: Sequence[str] | None) -> _Call[Pinned]:
        return _Call(
            "PUT",
            _path("conversations", conversation_id, "tools"),
            _as(Pinned),
            body={"only": list(tools) if tools is not None else None},
        )

    @staticmethod
    def ask(conversation_id: str, text: str) -> _Call[Answer]:
        return _Call("POST", _path("conversations", conversation_id, "messages"), _as(Answer), body={"text": text})

    @staticmethod
    def messages(conversation_id: str) -> _Call[Shown]:
        return _Call("GET", _path("conversations", conversation_id), _as(Shown))

    @staticmethod
    def opened(evidence: Evidence) -> _Call[dict[str, Any]]:
        return _Call("GET", evidence.href, _as(dict[str, Any]))


def table(answer: Answer | Ran) -> list[dict[str, Any]]:
    """The numbers of an answer or a tool's run, one row each: id, title, value, unit, series UID, model; `pandas.DataFrame` takes it."""
    rows = []
    for one in answer.evidence:
        if isinstance(one.value, int | float) and not isinstance(one.value, bool):
            image = one.source if isinstance(one.source, ImageRef) else None
            rows.append({"id": one.id, "title": one.title, "value": one.value, "unit": one.unit, "series_uid": image.series_uid if image else None,
                         "model": f"{image.model} {image.model_version}" if image else None, "statement": one.statement})  # fmt: skip
    return rows


def _ids(study: Study, where: ImageRef | Series) -> tuple[str, str]:
    """Study and series id of an image that evidence names, or of a series."""
    for series in study.series:
        if series.id == where.id if isinstance(where, Series) else series.series_uid == where.series_uid:
            return study.id, series.id
    raise Refused(404, "the series isn't of this study", "name the study that it is of")


class Consilium:
    """The server at `url`, for programs that wait. Raises Refused where it says no."""

    def __init__(self, url: str = "http://127.0.0.1:8420", key: str | None = None, timeout: float = SECONDS) -> None:
        self._http = httpx.Client(base_url=url, headers=_headers(key), timeout=timeout, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def _do(self, call: _Call[T]) -> T:
        return call.reply(self._http.request(call.method, call.path, params=call.params, json=call.body))

    def upload(self, paths: Iterable[Path | str], patient_id: str | None = None) -> Import:
        """Store files and folders (DICOM, NIfTI, reports, FHIR …); what came of each."""
        with _opened(_files(paths)) as files:
            reply = self._http.post("/v1/studies", files=files, data={"patient_id": patient_id} if patient_id else None)
        return cast(Import, _as(Import)(checked(reply)))

    def patients(self) -> list[str]:
        """Ids of the patients."""
        return self._do(_Calls.patients())

    def studies(self, patient_id: str | None = None) -> list[Study]:
        """The studies of a patient, or all."""
        return self._do(_Calls.studies(patient_id))

    def study(self, study_id: str) -> Study:
        """One study."""
        return self._do(_Calls.study(study_id))

    def volume(self, study: Study, series: Series | ImageRef) -> Array:
        """A series of a study as an array; `series` may be the image that evidence names."""
        return self._do(_Calls.volume(*_ids(study, series)))

    def masks(self, study: Study, series: Series | ImageRef) -> dict[str, Array]:
        """The outlines made on a series, by name: label values on its grid."""
        ids = _ids(study, series)
        return {n: self._do(_Calls.mask(*ids, n)) for n in self._do(_Calls.masks(*ids))}

    def tools(self) -> list[dict[str, Any]]:
        """Every tool with its schema and card."""
        return self._do(_Calls.tools())

    def run(self, tool: str, patient_id: str | None = None, study_ids: Sequence[str] | None = None, **arguments: Any) -> Ran:
        """Run one tool on a case."""
        return self._do(_Calls.run(tool, patient_id, study_ids, arguments))

    def conversation(
        self, patient_id: str | None = None, study_ids: Sequence[str] | None = None, tools: Sequence[str] | None = None
    ) -> str:
        """The id of a new conversation; `tools`: hold it to these."""
        opened = self._do(_Calls.conversation(patient_id, study_ids))
        if tools is not None:
            self._do(_Calls.pin(opened.id, tools))
        return opened.id

    def ask(self, text: str, patient_id: str | None = None, conversation: str | None = None) -> Answer:
        """The whole answer; in `conversation`, or in a new one about the patient."""
        return self._do(_Calls.ask(conversation or self.conversation(patient_id), text))

    def stream(self, text: str, patient_id: str | None = None, conversation: str | None = None) -> Iterator[Event]:
        """The answer in the making; the last event is `answer`."""
        call = _Calls.ask(conversation or self.conversation(patient_id), text)
        with self._http.stream(call.method, call.path, json=call.body, headers={"accept": "text/event-stream"}) as reply:
            if not reply.is_success:
                reply.read()
            yield from _events(checked(reply).iter_lines())

    def messages(self, conversation: str) -> Shown:
        """A conversation with its questions and answers."""
        return self._do(_Calls.messages(conversation))

    def opened(self, evidence: Evidence) -> dict[str, Any]:
        """An evidence with its source opened."""
        return self._do(_Calls.opened(evidence))


class AsyncConsilium:
    """The same for programs that don't wait."""

    def __init__(self, url: str = "http://127.0.0.1:8420", key: str | None = None, timeout: float = SECONDS) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(key), timeout=timeout, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._http.aclose()

    async def _do(self, call: _Call[T]) -> T:
        return call.reply(await self._http.request(call.method, call.path, params=call.params, json=call.body))

    async def upload(self, paths: Iterable[Path | str], patient_id: str | None = None) -> Import:
        """As `Consilium.upload`; the files are read whole."""
        files = [("files", (f.name, io.BytesIO(f.read_bytes()))) for f in _files(paths)]
        reply = await self._http.post("/v1/studies", files=files, data={"patient_id": patient_id} if patient_id else None)
        return cast(Import, _as(Import)(checked(reply)))

    async def patients(self) -> list[str]:
        """Ids of the patients."""
        return await self._do(_Calls.patients())

    async def studies(self, patient_id: str | None = None) -> list[Study]:
        """The studies of a patient, or all."""
        return await self._do(_Calls.studies(patient_id))

    async def study(self, study_id: str) -> Study:
        """One study."""
        return await self._do(_Calls.study(study_id))

    async def volume(self, study: Study, series: Series | ImageRef) -> Array:
        """As `Consilium.volume`."""
        return await self._do(_Calls.volume(*_ids(study, series)))

    async def masks(self, study: Study, series: Series | ImageRef) -> dict[str, Array]:
        """As `Consilium.masks`."""
        ids = _ids(study, series)
        return {n: await self._do(_Calls.mask(*ids, n)) for n in await self._do(_Calls.masks(*ids))}

    async def tools(self) -> list[dict[str, Any]]:
        """Every tool with its schema and card."""
        return await self._do(_Calls.tools())

    async def run(
        self, tool: str, patient_id: str | None = None, study_ids: Sequence[str] | None = None, **arguments: Any
    ) -> Ran:
        """Run one tool on a case."""
        return await self._do(_Calls.run(tool, patient_id, study_ids, arguments))

    async def conversation(
        self, patient_id: str | None = None, study_ids: Sequence[str] | None = None, tools: Sequence[str] | None = None
    ) -> str:
        """As `Consilium.conversation`."""
        opened = await self._do(_Calls.conversation(patient_id, study_ids))
        if tools is not None:
            await self._do(_Calls.pin(opened.id, tools))
        return opened.id

    async def ask(self, text: str, patient_id: str | None = None, conversation: str | None = None) -> Answer:
        """As `Consilium.ask`."""
        return await self._do(_Calls.ask(conversation or await self.conversation(patient_id), text))

    async def stream(self, text: str, patient_id: str | None = None, conversation: str | None = None) -> AsyncIterator[Event]:
        """The answer in the making; the last event is `answer`."""
        call = _Calls.ask(conversation or await self.conversation(patient_id), text)
        async with self._http.stream(call.method, call.path, json=call.body, headers={"accept": "text/event-stream"}) as reply:
            if not reply.is_success:
                await reply.aread()
            checked(reply)
            kept: list[str] = []
            async for line in reply.aiter_lines():
                kept.append(line)
                if not line:
                    for event in _events(kept):
                        yield event
                    kept = []

    async def messages(self, conversation: str) -> Shown:
        """A conversation with its questions and answers."""
        return await self._do(_Calls.messages(conversation))

    async def opened(self, evidence: Evidence) -> dict[str, Any]:
        """An evidence with its source opened."""
        return await self._do(_Calls.opened(evidence))


def _headers(key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


__all__ = ["Array", "AsyncConsilium", "Consilium", "Event", "Refused", "table"]
