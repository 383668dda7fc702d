"""The field `sql`: {"setup", "rows", "ordered"}: the answer is one query that returns these rows.

The database lives in memory. `setup` makes it; after that it can only be read, for a second at most
and with little memory, for the query is not trusted.
"""

import re
import sqlite3
import time

from posttrain.cli import BadInput
from posttrain.verify.values import Verdict, is_number, need, plain

KEYS = {"setup", "rows", "ordered"}
SECONDS = 1  # for a query
# A value may have 100 kB; all values together 64 MB, which sqlite counts over the whole process.
LONGEST_VALUE = 100_000
LIMIT_MEMORY = "PRAGMA temp_store = MEMORY; PRAGMA hard_heap_limit = 67108864"

# Denied from the beginning: other files, and settings.
OUTSIDE = (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA)
# All that a query may do.
READING = (
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
)

FENCE = re.compile(r"\s*```(?:sql)?\s(.*)```\s*", re.DOTALL | re.IGNORECASE)


def sql_shape(row, field):
    need(
        is_task(row[field]),
        field,
        '{"setup": SQL text, "rows": [[string, number or null, ...], ...], "ordered": true or false}',
    )
    open_database(row[field]["setup"]).close()


def is_task(value):
    """Is this {"setup": text, "rows": rows} with or without "ordered"?"""
    return (
        isinstance(value, dict)
        and {"setup", "rows"} <= set(value) <= KEYS
        and isinstance(value["setup"], str)
        and isinstance(value.get("ordered", False), bool)
        and isinstance(value["rows"], list)
        and all(is_row(row) for row in value["rows"])
    )


def is_row(row):
    return isinstance(row, list) and all(is_cell(cell) for cell in row)


def is_cell(value):
    return value is None or isinstance(value, str) or is_number(value)


def sql_verdict(answer, task):
    return Verdict(check_sql(answer.text, **task))


def check_sql(text, setup, rows, ordered=False):
    """Does the query in a text (bare or in a ``` fence) return these rows, in order if `ordered`?

    One SELECT. A query that spells the rows out as constants passes, too: choose rows that cannot
    be guessed.
    """
    fence = FENCE.fullmatch(text)
    query = fence[1] if fence else text
    database = open_database(setup)
    try:
        cursor = database.execute(query)
        returned = canonical(cursor.fetchmany(len(rows) + 1))
        is_query = bool(cursor.description)
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError):
        return False
    finally:
        database.close()
    expected = canonical(rows)
    if not ordered:
        returned, expected = sorted(returned), sorted(expected)
    return is_query and returned == expected


def canonical(rows):
    """Rows as lists of texts that are equal where the values are: 3 = 3.0 = 2.9999999999999996."""
    return [[canonical_cell(cell) for cell in row] for row in rows]


def canonical_cell(value):
    if isinstance(value, float):
        value = float(f"{value:.9g}")  # integers stay exact
    return plain(value)


def open_database(setup):
    """In-memory database after `setup`; from then on it is read-only and stops a second from now.

    BadInput: the setup fails.
    """
    database = sqlite3.connect(":memory:", isolation_level=None)
    end = time.monotonic() + SECONDS
    database.executescript(LIMIT_MEMORY)
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
    database.set_progress_handler(lambda: time.monotonic() > end, 1000)  # asked every 1,000 steps
    database.set_authorizer(permit_setup)
    try:
        database.executescript(setup)
    except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
        database.close()
        why = str(error)[:100]
        raise BadInput(f"field 'sql': expected a setup that runs in sqlite ({why})") from None
    database.set_authorizer(permit_reading)
    return database


def permit_setup(action, *_):
    return sqlite3.SQLITE_DENY if action in OUTSIDE else sqlite3.SQLITE_OK


def permit_reading(action, *_):
    return sqlite3.SQLITE_OK if action in READING else sqlite3.SQLITE_DENY
