"""Engines: SQLite in WAL mode by default, any SQLAlchemy URL by setting."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import StaticPool

T = TypeVar("T")


def batches(values: Sequence[T], size: int = 500) -> Iterator[Sequence[T]]:
    """`values` in runs that a statement's IN (…) takes."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def opened(where: Path | str | None, tables: type[DeclarativeBase]) -> Engine:
    """An engine with `tables` on a database URL, in a file, or (None) in memory alone, for what runs without a server."""
    if where is None:
        engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        tables.metadata.create_all(engine)
        return engine
    if isinstance(where, Path):
        where.parent.mkdir(parents=True, exist_ok=True)
        where = f"sqlite:///{where}"
    return engine_of(where, tables)


def engine_of(url: str, tables: type[DeclarativeBase], migrate: Callable[[Engine], object] | None = None) -> Engine:
    """An engine with `tables` made, an older database brought up by `migrate` first. On SQLite: WAL, full synchronisation, foreign keys, 10 s of patience for locks."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _pragmas(connection: Any, _: Any) -> None:
            for pragma in ("busy_timeout=10000", "synchronous=FULL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}")

        # The mode is kept in the file: set once here, since two connections that set it at the same time lock each other out.
        with engine.connect() as connection:
            connection.execute(text("PRAGMA journal_mode=WAL"))
    if migrate is not None:
        migrate(engine)
    tables.metadata.create_all(engine)
    return engine
