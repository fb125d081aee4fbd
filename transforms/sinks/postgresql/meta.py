# SPDX-License-Identifier: Apache-2.0
"""What a PostgreSQL mirror knows of itself, and the permissions that its role needs.

Everything is in one schema, so that one GRANT is enough. Tables of DynamoDB have no `$` in their
names, so ours do: `$mirror` (one row: state directory, last round), `$tables` (one row per table).
"""

# ruff: noqa: S608  (SQL is made of constants and of names that are quoted)

from __future__ import annotations

from dynabeam.transforms.errors import SinkError
from dynabeam.transforms.runtime.stored_format import check_format
from dynabeam.transforms.sinks.base import Round
from dynabeam.transforms.sinks.mirror_sink import Held
from dynabeam.transforms.sinks.postgresql.connection import Connection, PostgresSettings, execute
from dynabeam.transforms.sinks.postgresql.names import qualified, quoted_text
from dynabeam.transforms.values.json_sql import quoted_name

__all__ = [
    "FORMAT",
    "MIRROR",
    "TABLES",
    "add_columns_of_names",
    "check_server",
    "create_meta",
    "raise_format",
    "read_held",
    "write_held",
]

FORMAT = 2
"""Of a mirror with names that an earlier release would not find, see `postgresql_names`."""
_FIRST_FORMAT = 1
MIRROR = "$mirror"
TABLES = "$tables"
_OLDEST_RELEASE = 12


def check_server(connection: Connection, settings: PostgresSettings) -> None:
    """Checks that the server and the role can hold a mirror.

    Raises:
        SinkError: If not; a missing right is named with the statement that gives it.
    """
    row = execute(
        connection,
        "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), "
        "current_setting('transaction_read_only'), current_database(), current_user, "
        "has_database_privilege(current_database(), 'TEMPORARY'), "
        "has_database_privilege(current_database(), 'CREATE'), "
        f"(SELECT oid FROM pg_namespace WHERE nspname = {quoted_text(settings.schema)})",
    ).fetchone()
    assert row is not None
    release, encoding, read_only, database, role, temporary, create, schema = row
    if release // 10000 < _OLDEST_RELEASE:
        raise SinkError(
            "this PostgreSQL is too old",
            where=settings.where,
            expected=f"release {_OLDEST_RELEASE} or newer",
            found=release // 10000,
        )
    if encoding != "UTF8":
        raise SinkError(
            "the database cannot hold every text",
            where=settings.where,
            expected="encoding UTF8",
            found=encoding,
            hint="CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0, and use that one",
        )
    if read_only != "off":
        raise SinkError(
            "the server takes no writes: it is a standby, or the role is read-only",
            where=settings.where,
            hint="Name the primary, or several hosts and target_session_attrs=read-write",
        )
    database, role = quoted_name(database), quoted_name(role)
    if not temporary:
        raise _lacks(settings, "TEMPORARY", f"GRANT TEMPORARY ON DATABASE {database} TO {role}")
    if schema is None:
        if not create:
            statement = f"CREATE SCHEMA {quoted_name(settings.schema)} AUTHORIZATION {role}"
            raise _lacks(settings, "to create the schema", statement)
        return
    _check_schema(connection, settings, role)


def _check_schema(connection: Connection, settings: PostgresSettings, role: str) -> None:
    schema, schema_text = quoted_name(settings.schema), quoted_text(settings.schema)
    row = execute(
        connection,
        f"SELECT has_schema_privilege({schema_text}, 'USAGE'), "
        f"has_schema_privilege({schema_text}, 'CREATE')",
    ).fetchone()
    for right, granted in zip(("USAGE", "CREATE"), row or (), strict=True):
        if not granted:
            raise _lacks(settings, right, f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}")
    row = execute(
        connection,
        "SELECT relname, relowner::regrole::text FROM pg_class "
        f"WHERE relnamespace = {schema_text}::regnamespace AND relkind IN ('r', 'v') "
        f"AND EXISTS (SELECT FROM pg_class o WHERE o.relname = {quoted_text(MIRROR)} "
        "AND o.relnamespace = pg_class.relnamespace) "
        r"AND relname LIKE ANY (ARRAY['%$rows', '$mirror', '$tables']) "
        "AND NOT pg_has_role(relowner, 'USAGE') LIMIT 1",
    ).fetchone()
    if row is not None:
        raise SinkError(
            f"the table {row[0]} belongs to another role, and only its owner can add columns",
            where=settings.where,
            expected=role,
            found=row[1],
            hint=f"GRANT {row[1]} TO {role}, or connect as {row[1]}",
        )


def create_meta(connection: Connection, settings: PostgresSettings) -> None:
    """Creates the schema and tables of ours that are missing; part of the caller's transaction."""
    schema = quoted_name(settings.schema)
    # Of two who start at once, one waits: IF NOT EXISTS alone can fail.
    execute(connection, f"SELECT pg_advisory_xact_lock(hashtext('dynabeam {settings.schema}'))")
    found = execute(
        connection, f"SELECT FROM pg_namespace WHERE nspname = {quoted_text(settings.schema)}"
    ).fetchone()
    if found is None:
        # Not IF NOT EXISTS: that asks for the right even if the schema is there.
        execute(connection, f"CREATE SCHEMA {schema}")
    execute(
        connection,
        f"CREATE TABLE IF NOT EXISTS {schema}.{quoted_name(MIRROR)} ("
        "format integer NOT NULL, state_id text NOT NULL, round bigint NOT NULL, "
        "attempt text NOT NULL, continuous boolean NOT NULL, applied timestamptz NOT NULL, "
        "one boolean PRIMARY KEY DEFAULT true CHECK (one)); "
        f"CREATE TABLE IF NOT EXISTS {schema}.{quoted_name(TABLES)} ("
        "id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, "
        "relation text NOT NULL UNIQUE, arn text NOT NULL, keys text NOT NULL, "
        "options text NOT NULL, attributes text NOT NULL, revision bigint NOT NULL, "
        "columns text)",
    )


def read_held(connection: Connection, settings: PostgresSettings) -> Held | None:
    """What the mirror holds; None if there is no mirror yet.

    Raises:
        SinkError: If another version of Dynabeam wrote it in a form unknown here.
    """
    found = execute(
        connection,
        f"SELECT FROM pg_class WHERE relname = {quoted_text(MIRROR)} AND relnamespace = "
        f"(SELECT oid FROM pg_namespace WHERE nspname = {quoted_text(settings.schema)})",
    ).fetchone()
    if found is None:
        return None
    table = qualified(settings.schema, MIRROR)
    row = execute(connection, f"SELECT format FROM {table}").fetchone()
    if row is None:
        return None
    check_format(
        {"format": row[0]},
        (_FIRST_FORMAT, FORMAT),
        what="the mirror",
        where=settings.where,
        error=SinkError,
        hint="Upgrade Dynabeam",
    )
    row = execute(
        connection, f"SELECT state_id, round, attempt, continuous FROM {table}"
    ).fetchone()
    assert row is not None
    return Held(Round(row[0], row[1], row[2]), row[3])


def add_columns_of_names(connection: Connection, settings: PostgresSettings) -> None:
    """Makes room for what a mirror of an earlier release does not store: names of columns."""
    table = qualified(settings.schema, TABLES)
    found = execute(
        connection,
        f"SELECT FROM pg_attribute WHERE attrelid = {quoted_text(table)}::regclass "
        "AND attname = 'columns' AND NOT attisdropped",
    ).fetchone()
    if found is None:
        execute(connection, f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS columns text")


def raise_format(connection: Connection, settings: PostgresSettings) -> None:
    """Has earlier releases refuse the mirror; part of the caller's transaction."""
    table = qualified(settings.schema, MIRROR)
    execute(connection, f"UPDATE {table} SET format = {FORMAT} WHERE format < {FORMAT}")


def write_held(connection: Connection, settings: PostgresSettings, held: Held) -> None:
    """Records what the mirror holds; it stays that of its state directory."""
    table = qualified(settings.schema, MIRROR)
    execute(
        connection,
        f"INSERT INTO {table} VALUES (%s, %s, %s, %s, %s, now()) ON CONFLICT (one) DO UPDATE SET "
        "round = excluded.round, attempt = excluded.attempt, continuous = excluded.continuous, "
        f"applied = excluded.applied WHERE {quoted_name(MIRROR)}.state_id = excluded.state_id",
        (
            _FIRST_FORMAT,
            held.round.state_id,
            held.round.number,
            held.round.attempt,
            held.continuous,
        ),
    )


def _lacks(settings: PostgresSettings, permission: str, statement: str) -> SinkError:
    return SinkError(
        f"the role lacks a permission: {permission}",
        where=settings.where,
        hint=f"Have it granted: {statement}",
    )
