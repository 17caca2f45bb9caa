"""QIDO-RS: search for studies, series and instances (PS3.18 10.6)."""

from itertools import islice

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from knowledge.errors import Refused
from knowledge.studies import matching, wado
from knowledge.studies.query import MATCHED, DicomIndex
from knowledge.studies.tags import Tags, put, tag
from serving.api.deps import Caller, HouseDep
from serving.api.dicomweb.common import (
    JSON,
    PREFIX,
    SeriesUid,
    StudyUid,
    base_of,
    index_of,
    takes,
)
from serving.errors import Problem
from serving.house import House


class Matches(JSONResponse):
    """Attributes in the DICOM JSON model."""

    media_type = "application/dicom+json"


router = APIRouter(prefix=PREFIX, tags=["DICOMweb"], default_response_class=Matches)
MOST = 1000
"""Matches in one reply."""
_LEVELS = {"studies": ("StudyInstanceUID",), "series": ("StudyInstanceUID", "SeriesInstanceUID"),
           "instances": ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}  # fmt: skip


@router.get("/studies", operation_id="search_studies", summary="Search for studies")
async def search_studies(house: HouseDep, who: Caller, request: Request) -> Response:
    """Attributes by keyword or tag; `includefield`, `limit`, `offset`, `fuzzymatching`."""
    return await run_in_threadpool(_searched, house, request, "studies", {})


@router.get("/series", operation_id="search_all_series", summary="Search for series of all studies")
async def search_all_series(house: HouseDep, who: Caller, request: Request) -> Response:
    return await run_in_threadpool(_searched, house, request, "series", {})


@router.get("/instances", operation_id="search_all_instances", summary="Search for instances of all studies")
async def search_all_instances(house: HouseDep, who: Caller, request: Request) -> Response:
    return await run_in_threadpool(_searched, house, request, "instances", {})


@router.get("/studies/{study}/series", operation_id="search_series", summary="Search for series of a study")
async def search_series(house: HouseDep, who: Caller, request: Request, study: StudyUid) -> Response:
    return await run_in_threadpool(_searched, house, request, "series", {"StudyInstanceUID": study})


@router.get("/studies/{study}/instances", operation_id="search_instances_of_study", summary="Search for instances of a study")
async def search_instances_of_study(house: HouseDep, who: Caller, request: Request, study: StudyUid) -> Response:
    return await run_in_threadpool(_searched, house, request, "instances", {"StudyInstanceUID": study})


@router.get(
    "/studies/{study}/series/{series}/instances", operation_id="search_instances", summary="Search for instances of a series"
)
async def search_instances(house: HouseDep, who: Caller, request: Request, study: StudyUid, series: SeriesUid) -> Response:
    named = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
    return await run_in_threadpool(_searched, house, request, "instances", named)


def _searched(house: House, request: Request, level: str, named: dict[str, str]) -> Response:
    if not takes(request.headers.get("accept", ""), JSON, "application/json"):
        raise Problem(406, "NotAcceptable", "matches are told as application/dicom+json", f"accept {JSON}")
    keys, fields, fuzzy, limit, offset = _asked(request, named)
    passed_over = [path for path in keys if path[0] not in MATCHED]
    keys = {path: value for path, value in keys.items() if path[0] in MATCHED}
    index = index_of(house)
    if level == "studies":
        found = list(islice(index.studies(keys, fuzzy, offset, limit + 1), limit + 1))
    else:
        find = index.series if level == "series" else index.instances
        found = list(islice(find(keys, fuzzy), offset, offset + limit + 1))
    told = [_told(index, match, level, fields, base_of(request)) for match in found[:limit]]
    warnings = ["There are more matches; ask for them by offset"] if len(found) > limit else []
    if passed_over:
        warnings.append(f"Not matched by: {', '.join('.'.join(p) for p in passed_over)}")
    headers = {"Warning": ", ".join(f'299 consilium "{w}"' for w in warnings)} if warnings else {}
    return JSONResponse(told, headers=headers, media_type=JSON)


def _asked(request: Request, named: dict[str, str]) -> tuple[dict[tuple[str, ...], str], list[str], bool, int, int]:
    """Keys, further attributes, whether names are matched loosely, how many matches and from where."""
    keys: dict[tuple[str, ...], str] = {matching.path_of(name): value for name, value in named.items()}
    fields: list[str] = []
    numbers = {"limit": MOST, "offset": 0}
    fuzzy = False
    try:
        for name, value in request.query_params.multi_items():
            if name == "includefield":
                fields += [f.strip() for f in value.split(",") if f.strip()]
            elif name == "fuzzymatching":
                fuzzy = _flag(value)
            elif name in numbers:
                if not value.isascii() or not value.isdigit() or len(value) > 9:
                    raise Refused(f"{name} isn't a whole number of 0 or more", "correct it")
                numbers[name] = int(value)
            else:
                path = matching.path_of(name)
                keys[path] = value if path not in keys or not keys[path] else keys[path]
        matching.check(keys)
        fields = ["all" if f == "all" else matching.path_of(f)[0] for f in fields]
    except Refused as error:
        raise Problem(400, "InvalidQuery", str(error), error.hint) from error
    return keys, fields, fuzzy, min(numbers["limit"] or MOST, MOST), numbers["offset"]


def _flag(value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise Refused("fuzzymatching is true or false", "correct it")
    return value.lower() == "true"


def _told(index: DicomIndex, match: Tags, level: str, fields: list[str], base: str) -> Tags:
    """A match with its link, and what was asked for besides."""
    uids = [str(match[tag(k)]["Value"][0]) for k in _LEVELS[level]]
    link = base + "".join(f"/{kind}/{uid}" for kind, uid in zip(("studies", "series", "instances"), uids, strict=False))
    more: Tags = {}
    wanted = [f for f in fields if f != "all" and f not in match]
    if wanted or "all" in fields:
        one = index.stored(*uids)[0]
        whole = wado.attributes(one, "")
        more = whole if "all" in fields and level == "instances" else {f: whole[f] for f in wanted if f in whole}
    return dict(sorted({**more, **match, **put("RetrieveURL", link)}.items()))
