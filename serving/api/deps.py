"""What routes get: the house, and a caller who has shown a key."""

from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import Headers

from serving.access.bounds import hold
from serving.access.grants import Grant
from serving.errors import Problem
from serving.house import ROLE, House
from serving.outgoing import Outbox
from serving.settings import LOOPBACK
from serving.subscriptions import Subscriptions


async def house_of(request: Request) -> House:
    """The house of this app."""
    house: House = request.app.state.house
    return house


def grant_of(house: House, headers: Headers) -> Grant:
    """Who calls, and what they may. Raises 401 without a key that is known."""
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    secret = secret.strip() if scheme.lower() == "bearer" else ""
    ROLE.set(None)
    if house.settings.no_auth:
        return Grant("anyone on loopback")
    key = house.keys.key(secret) if secret else None
    if key is not None:
        ROLE.set(key.role)
        return Grant(key.name)
    token = house.tokens.admits(secret) if secret.startswith("ct_") else None
    if token is None:
        raise Problem(401, "Unauthorized", "a key is needed", "send Authorization: Bearer KEY; the chat link holds one")
    return token


async def granted(request: Request) -> Grant:
    """Who calls, and what they may. Raises 401 without a key that is known."""
    return grant_of(request.app.state.house, request.headers)


async def caller(request: Request, grant: Annotated[Grant, Depends(granted)]) -> str:
    """The name of the caller's key. Raises 401 without one that is known, and holds a token for one patient to that patient."""
    await hold(request.app.state.house, request, grant)
    return grant.name


async def outbox_of(request: Request) -> Outbox:
    """The outbox of this app."""
    outbox: Outbox = request.app.state.outbox
    return outbox


async def subscriptions_of(request: Request) -> Subscriptions:
    """Who is told of what."""
    subscriptions: Subscriptions = request.app.state.subscriptions
    return subscriptions


def root_of(request: Request) -> str:
    """Where others reach this server, without a slash at the end: by the settings, or as the caller reached it.

    dicomweb-client names the host without its port: where it is this very socket's address, the port is known.
    """
    settings = request.app.state.house.settings
    if settings.public_url:
        return str(settings.public_url).rstrip("/")
    base, (host, port) = request.base_url, request.scope.get("server") or ("", None)
    if base.port is None and port not in (None, 80, 443) and base.hostname in (host, "localhost" if host in LOOPBACK else host):
        base = base.replace(port=port)
    return str(base).rstrip("/")


HouseDep = Annotated[House, Depends(house_of)]
OutboxDep = Annotated[Outbox, Depends(outbox_of)]
SubscriptionsDep = Annotated[Subscriptions, Depends(subscriptions_of)]
Caller = Annotated[str, Depends(caller)]
Granted = Annotated[Grant, Depends(granted)]
