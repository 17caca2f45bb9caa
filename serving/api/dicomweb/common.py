"""What searching, retrieving and storing share: UIDs of the path, types that are accepted, links."""

import re
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Header, Request

from knowledge.studies.query import DicomIndex, Stored
from serving.api import multipart
from serving.api.deps import Caller, HouseDep, root_of
from serving.errors import Problem
from serving.house import House

PREFIX = "/dicom-web"
JSON = "application/dicom+json"
PART_10 = "application/dicom"


def _uid(text: str) -> str:
    if not re.fullmatch(r"[0-9.]{1,64}", text):
        raise Problem(400, "MalformedUid", "a UID has up to 64 digits and dots", "correct the UID")
    return text


async def study_uid(study: str) -> str:
    """The study of the path. Raises 400 for what is no UID."""
    return _uid(study)


async def series_uid(series: str) -> str:
    """The series of the path. Raises 400 for what is no UID."""
    return _uid(series)


async def sop_uid(instance: str) -> str:
    """The instance of the path. Raises 400 for what is no UID."""
    return _uid(instance)


StudyUid = Annotated[str, Depends(study_uid)]
SeriesUid = Annotated[str, Depends(series_uid)]
SopUid = Annotated[str, Depends(sop_uid)]
AcceptHeader = Annotated[str, Header(alias="accept")]


@dataclass(frozen=True)
class Named:
    """What a request's path names (UIDs of a study, a series, an instance, as far as it goes), and what its sender accepts."""

    house: House
    request: Request
    accept: str
    uids: tuple[str, ...]

    @property
    def stored(self) -> list[Stored]:
        """The instances. Raises NotFound, and Gone for what was deleted."""
        return index_of(self.house).stored(*self.uids)

    @property
    def base(self) -> str:
        """Where DICOMweb is found."""
        return base_of(self.request)


async def named_study(house: HouseDep, who: Caller, request: Request, study: StudyUid, accept: AcceptHeader = "") -> Named:
    """A study, for a caller with a key."""
    return Named(house, request, accept, (study,))


NamedStudy = Annotated[Named, Depends(named_study)]


async def named_series(study: NamedStudy, series: SeriesUid) -> Named:
    """A series of it."""
    return replace(study, uids=(*study.uids, series))


NamedSeries = Annotated[Named, Depends(named_series)]


async def named_instance(series: NamedSeries, instance: SopUid) -> Named:
    """An instance of that."""
    return replace(series, uids=(*series.uids, instance))


NamedInstance = Annotated[Named, Depends(named_instance)]


def index_of(house: House) -> DicomIndex:
    """The archive's DICOM objects."""
    return DicomIndex(house.archive)


def base_of(request: Request) -> str:
    """Where DICOMweb is found."""
    return root_of(request) + PREFIX


def link_to(base: str, stored: Stored) -> str:
    """Where an instance is retrieved."""
    return f"{base}/studies/{stored.study_uid}/series/{stored.series_uid}/instances/{stored.sop_uid}"


def takes(accept: str, *kinds: str) -> bool:
    """Whether an Accept header takes one of `kinds`."""
    families = {f"{k.split('/')[0]}/*" for k in kinds}
    return any(a.wants in kinds or a.wants == "*/*" or a.wants in families for a in multipart.accepted(accept))
