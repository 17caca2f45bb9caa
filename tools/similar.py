"""`find_similar_cases`: studies of other patients in the hospital's own archive that look alike, de-identified. Off unless switched on for a role."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from knowledge.case import Case
from knowledge.errors import NotFound
from knowledge.evidence import Fact, ImageRef, Kind
from knowledge.records.anonymous import Scrub
from knowledge.records.reports import cut
from knowledge.similar import CaseIndex, Near
from knowledge.studies.archive import Archive
from knowledge.studies.model import Series, Study
from tools.base import Bench, Card, CaseTool, Cost, Missing, Needs, Reply
from tools.concepts import SIMILAR
from tools.errors import NotApplicable
from tools.models import jobs, worker
from tools.models.bundle import Bundle
from tools.models.fit import same_part
from tools.models.masks import chosen, newest_first
from tools.models.masks import on_grid as sequence_on_grid
from tools.models.pictures import picture_of

MOST = 5
MOST_SENTENCES = 4
"""Sentences of a similar case's report that are shown."""


class SimilarArguments(BaseModel):
    """What to look for."""

    model_config = ConfigDict(extra="forbid")
    study: str | None = Field(None, description="Handle of the study (S1); left out: the newest that a network knows.")
    most: int = Field(3, ge=1, le=MOST, description="How many cases at most.")


class FindSimilarCases(CaseTool):
    """Cases of the hospital's own archive that look alike."""

    name: str = "find_similar_cases"
    description: str = (
        "Studies of other patients in this hospital's own archive whose images look alike to an imaging network, with what their reports say, "
        "de-identified. Only where the hospital has switched it on, for the roles that it names."
    )
    args_schema: type[BaseModel] = SimilarArguments
    asks: ClassVar[list[str]] = [
        "Show similar cases", "Have we seen something like this before?", "Find cases like this one in our archive", "Which patients had similar images?",
        "Are there comparable cases?", "What became of similar cases?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs(modality=["MR", "CT", "US"])
    gives: ClassVar[list[Kind]] = [Kind.FINDING]
    card: ClassVar[Card] = Card(
        intended_use="Examples for a reader's own comparison; no diagnosis follows from likeness.",
        accuracy="The same study with noise, or moved, is found before others (tests/tools/test_similar.py); likeness of disease wasn't measured.",
        limits="Likeness is that of a network's features of the whole image (scanner, position and anatomy count too), not of the disease. Reports "
        "lose names, numbers and contacts by pattern, and dates are moved: a person has to look before anything is passed on.",
    )
    cost: ClassVar[Cost] = Cost(seconds=4, memory_mb=2000)
    network: ClassVar[bool] = False

    def answer(self, arguments: SimilarArguments) -> Reply:
        index = self.bench.resources.cases
        if index is None:
            raise NotApplicable(
                "no index of the archive's cases is there", "switch similar_cases on and run `consilium similar index`"
            )
        case = self.bench.required_case
        seen = embedded(self.bench, arguments.study)
        own = case.archive.vault.patient(case.patient.id)
        near = [n for n in index.near(seen.network, seen.embedding, own, arguments.most) if _there(case.archive, n)]
        source = ImageRef(study_id=seen.study.id, series_uid=seen.series.series_uid, frame=seen.frame, model=seen.bundle.name, model_version=seen.bundle.version,
                          sop_instance_uids=seen.uids)  # fmt: skip
        facts = [_told(case.archive, n, source, seen.bundle, rank) for rank, n in enumerate(near, 1)]
        if not facts:
            raise NotApplicable(
                "the archive's index holds no other patient's study of this kind", "index more studies: `consilium similar index`"
            )
        lacking = Missing(what="a measure of likeness of disease", why="the network compares whole images, scanner and position included",
                          would_change="how much a similar case says of this one")  # fmt: skip
        return Reply(text="\n".join(f.statement for f in facts), facts=facts, missing=[lacking])


@dataclass(frozen=True)
class Seen:
    """A study as a network sees it."""

    study: Study
    series: Series
    bundle: Bundle
    embedding: np.ndarray
    frame: int
    uids: list[str]

    @property
    def network(self) -> str:
        """Name and version of the network, which name the collection."""
        return f"{self.bundle.name}-{self.bundle.version}"


def embedded(bench: Bench, handle: str | None) -> Seen:
    """The newest fitting study as an in-box network sees it: the mean features of its stages, by their spread in the training data, of length one.

    Raises NotApplicable where no network knows the images.
    """
    picture = picture_of(bench, handle)
    if picture is not None:
        part = picture.series.body_part or picture.study.body_part
        for bundle in bench.resources.catalogue.of("classification"):
            if (
                bundle.card.dimensions == 2
                and bundle.card.modality == picture.series.modality
                and same_part(bundle.card.body_part, part) is not False
            ):
                found = worker.run(
                    jobs.embed_slices, str(bundle.folder), picture.slices, progress=bench.progress, cancelled=bench.cancelled
                )
                if found is not None:
                    return Seen(
                        picture.study,
                        picture.series,
                        bundle,
                        found,
                        int(picture.where["frame"]),
                        list(picture.where.get("sop_instance_uids", [])),
                    )
        raise NotApplicable(
            f"no network knows {picture.series.modality} of {part or 'an unnamed body part'}", "name another study"
        )
    for study in newest_first(bench.required_case, handle):
        try:
            pick = chosen(bench, study.handle, None)
        except NotApplicable:
            continue
        return _volume(bench, pick.study, pick.bundle, pick.channels)
    raise NotApplicable("no network knows the images of this case", "name another study")


def _volume(bench: Bench, study: Study, bundle: Bundle, channels: dict[str, Series]) -> Seen:
    case = bench.required_case
    reference = next(iter(channels.values()))
    volume = case.volume(reference)
    with worker.scratch() as folder:
        files: list[str | None] = []
        for number, sequence in enumerate(bundle.card.sequences or [""]):
            series = channels.get(sequence)
            array = (
                None
                if series is None
                else volume.array
                if series is reference
                else sequence_on_grid(case, series, reference, volume, [])
            )
            files.append(None if array is None else f"{folder}/{number}.npy")
            if array is not None:
                np.save(str(files[-1]), array)
        found = worker.run(
            jobs.embed_volume, str(bundle.folder), files, volume.affine, progress=bench.progress, cancelled=bench.cancelled
        )
    if found is None:
        raise NotApplicable(f"{bundle.name} keeps no features to compare by", "install a model that does")
    middle = volume.array.shape[2] // 2
    return Seen(study, reference, bundle, found, middle, volume.sop_instance_uids[middle : middle + 1])


def indexed(bench: Bench, index: CaseIndex, study: Study) -> str:
    """Put a study into the index; the network that knows it. Raises NotApplicable where none does."""
    case = bench.required_case
    seen = embedded(bench, study.handle)
    age = case.age_years
    about = {
        "modality": "/".join(study.image_modalities),
        "body_part": study.body_part,
        "sex": case.patient.sex or "",
        "age_decade": "" if age is None else f"{age // 10 * 10}s",
    }
    index.put(seen.network, study.id, case.archive.vault.patient(case.patient.id), seen.embedding, about)
    return seen.network


def _there(archive: Archive, near: Near) -> bool:
    try:
        archive.study(near.study_id)
    except NotFound:  # deleted since it was indexed: it is passed over
        return False
    return True


def _told(archive: Archive, near: Near, source: ImageRef, bundle: Bundle, rank: int) -> Fact:
    study = archive.study(near.study_id)
    patient = archive.patient(study.patient_id)
    case = Case(archive, patient)
    scrub = Scrub(archive.identifying(patient.id), archive.vault.patient(patient.id).encode())
    sentences = [s.text for r in case.reports for s in cut(r.text) if s.part in ("IMPRESSION", "CONCLUSION", "FINDINGS")]
    quoted = [t for t in (scrub.text(s) for s in sentences) if not scrub.left(t)][:MOST_SENTENCES]
    who = ", ".join(
        w
        for w in (
            {"F": "woman", "M": "man"}.get(str(near.about.get("sex")), ""),
            f"in the {near.about['age_decade']}" if near.about.get("age_decade") else "",
        )
        if w
    )
    said = f" Its reports say, de-identified: “{' '.join(quoted)[:700]}”" if quoted else " It has no report."
    statement = (f"Similar case {rank}: {near.pseudonym} ({near.about.get('modality', '')} {near.about.get('body_part', '')}{f'; {who}' if who else ''}), "
                 f"similarity {near.similarity:.2f} by the features of {bundle.name}.{said}")  # fmt: skip
    return Fact(kind=Kind.FINDING, title=f"Similar case {rank}", statement=statement, code=SIMILAR, source=source,
                value={"pseudonym": near.pseudonym, "similarity": near.similarity, **near.about})  # fmt: skip
