"""Bring an archive's database of an earlier version to this one's tables; nothing that was taken in is lost."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

VERSION = 2


def migrate(engine: Engine) -> bool:
    """Bring the tables up to VERSION; true where a step ran. Raises RuntimeError for a database of a later version."""
    inspector = sa.inspect(engine)
    tables = set(inspector.get_table_names())
    with _alone(engine) as connection:
        found = _version(connection, tables)
        if found > VERSION:
            raise RuntimeError(
                f"the archive's database is of version {found}, this program knows {VERSION}: use the newer program"
            )
        for step in range(found + 1, VERSION + 1):
            STEPS[step](connection)
        if found != VERSION or "schema_version" not in tables:
            connection.execute(sa.text("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)"))
            connection.execute(sa.text("DELETE FROM schema_version"))
            connection.execute(sa.text("INSERT INTO schema_version VALUES (:v)"), {"v": VERSION})
    return found != VERSION


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """One transaction for all steps. SQLite: foreign keys rest while tables are rebuilt, and DDL joins the transaction."""
    with engine.connect() as connection:
        sqlite = engine.dialect.name == "sqlite"
        if sqlite:
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            connection.commit()
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        finally:
            if sqlite:
                connection.exec_driver_sql("PRAGMA foreign_keys=ON")


def _version(connection: Connection, tables: set[str]) -> int:
    if "schema_version" in tables:
        return int(connection.execute(sa.text("SELECT version FROM schema_version")).scalar() or VERSION)
    return 1 if "instances" in tables else VERSION  # version 1 kept no number; an empty database is made as of today


def _to_2(connection: Connection) -> None:
    """Parts of series, variants of instances, patients kept apart, reports of studies. Layouts are worked out anew afterwards."""
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext

    op = Operations(MigrationContext.configure(connection))
    text, empty = sa.String(), sa.text("''")
    for name, kind, default in (
        ("name", text, empty),
        ("issuer", text, empty),
        ("shared_id", text, empty),
        ("made", sa.Boolean(), sa.false()),
    ):
        op.add_column("patients", sa.Column(name, kind, nullable=False, server_default=default))
    for table in ("reports", "bundles"):
        op.add_column(table, sa.Column("study_id", text))
    naming = {"uq": "uq_%(table_name)s_%(column_0_name)s"}
    with op.batch_alter_table("studies", naming_convention=naming) as batch:
        batch.add_column(sa.Column("modalities", text, nullable=False, server_default=""))
        batch.drop_constraint("uq_studies_uid", type_="unique")
    with op.batch_alter_table("series", naming_convention=naming) as batch:
        batch.add_column(sa.Column("part", text, nullable=False, server_default=""))
        batch.add_column(sa.Column("which", sa.JSON(), nullable=False, server_default="{}"))
        batch.add_column(sa.Column("frames", sa.JSON(), nullable=False, server_default="[]"))
        batch.add_column(sa.Column("instances", sa.Integer(), nullable=False, server_default="0"))
        batch.drop_constraint("uq_series_uid", type_="unique")
    connection.execute(sa.text("UPDATE series SET settled = :no"), {"no": False})
    op.rename_table("instances", "instances_1")
    for index in sa.inspect(connection).get_indexes("instances_1"):
        op.drop_index(str(index["name"]), "instances_1")
    op.create_table(
        "instances", sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("study_id", text, sa.ForeignKey("studies.id"), nullable=False), sa.Column("series_uid", text, nullable=False),
        sa.Column("sop_uid", text, nullable=False), sa.Column("sop_class", text, nullable=False), sa.Column("sha256", text, nullable=False),
        sa.Column("companion", text), sa.Column("name", text, nullable=False), sa.Column("place", sa.JSON(), nullable=False),
        sa.Column("variant", sa.Integer(), nullable=False), sa.UniqueConstraint("study_id", "sop_uid", "sha256"),
    )  # fmt: skip
    connection.execute(sa.text(
        "INSERT INTO instances (study_id, series_uid, sop_uid, sop_class, sha256, name, place, variant) "
        "SELECT s.study_id, s.uid, i.sop_uid, '', i.sha256, i.name, i.place, 0 FROM instances_1 i JOIN series s ON s.id = i.series_id"
    ))  # fmt: skip
    op.drop_table("instances_1")
    for table, column in (("studies", "uid"), ("series", "uid"), ("instances", "study_id"), ("instances", "sop_uid"), ("instances", "sha256"),
                          ("patients", "shared_id"), ("reports", "study_id"), ("bundles", "study_id")):  # fmt: skip
        op.create_index(f"ix_{table}_{column}", table, [column])
    op.create_index("ix_instances_series", "instances", ["study_id", "series_uid"])
    op.create_index("ix_studies_date", "studies", ["date", "id"])


STEPS: dict[int, Callable[[Connection], None]] = {2: _to_2}
