"""What routes get: the house, and a caller who has shown a key."""

from typing import Annotated

from fastapi import Depends, Request

from serving.errors import Problem
from serving.house import House


async def house_of(request: Request) -> House:
    """The house of this app."""
    house: House = request.app.state.house
    return house


async def caller(request: Request) -> str:
    """The name of the caller's key. Raises 401 without one that is known."""
    house: House = request.app.state.house
    if house.settings.no_auth:
        return "anyone on loopback"
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    name = house.keys.admits(secret.strip()) if scheme.lower() == "bearer" and secret.strip() else None
    if name is None:
        raise Problem(401, "Unauthorized", "a key is needed", "send Authorization: Bearer KEY; the chat link holds one")
    return name


HouseDep = Annotated[House, Depends(house_of)]
Caller = Annotated[str, Depends(caller)]
