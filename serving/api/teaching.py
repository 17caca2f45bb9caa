"""Teaching items and what a learner has answered."""

from fastapi import APIRouter, Response

from knowledge.evidence import Frozen
from knowledge.teaching.items import Level, items, picture
from serving.api.deps import Caller, HouseDep

router = APIRouter(tags=["teaching"])


class ShownItem(Frozen):
    """A teaching item, without its answer."""

    key: str
    level: Level
    topic: str
    ask: str
    picture: str | None


class Progress(Frozen):
    """Share of the points by item, of a learner's newest answer to each; the weakest first."""

    learner: str
    scores: dict[str, float]


@router.get("/v1/quiz/items", operation_id="list_quiz_items", summary="Teaching items in the box")
def list_items(house: HouseDep, who: Caller) -> list[ShownItem]:
    return [ShownItem(key=i.key, level=i.level, topic=i.topic, ask=i.ask, picture=f"/v1/quiz/items/{i.key}/picture" if i.picture else None)
            for i in items().values()]  # fmt: skip


@router.get("/v1/quiz/items/{key}/picture", operation_id="quiz_picture", summary="The picture of a teaching item", response_class=Response,
            responses={200: {"content": {"image/jpeg": {}, "image/png": {}}}})  # fmt: skip
def show_picture(house: HouseDep, who: Caller, key: str) -> Response:
    data = picture(key)
    return Response(data, media_type="image/png" if data.startswith(b"\x89PNG") else "image/jpeg")


@router.get("/v1/quiz/progress", operation_id="quiz_progress", summary="What a learner has answered, the weakest first")
def progress(house: HouseDep, who: Caller, learner: str = "") -> Progress:
    scores = house.resources.teaching.scores(learner)
    return Progress(learner=learner, scores=dict(sorted(scores.items(), key=lambda s: s[1])))
