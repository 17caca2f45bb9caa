"""Where the graph's checkpoints lie: an SQLite file, or PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver


@asynccontextmanager
async def saver_at(where: Path | str) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """The saver at an SQLite file or a `postgresql://` URL."""
    if isinstance(where, str):
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
        from psycopg.rows import dict_row
        from psycopg_pool import AsyncConnectionPool

        kept = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        async with AsyncConnectionPool(where.replace("+psycopg", ""), kwargs=kept, open=False, max_size=8) as pool:
            saver = AsyncPostgresSaver(pool)  # type: ignore[arg-type]
            await saver.setup()
            yield saver
        return
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    async with AsyncSqliteSaver.from_conn_string(str(where)) as lite:
        yield lite
