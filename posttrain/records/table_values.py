"""Values of a table (Arrow, pandas, numpy) -> plain JSON, before anything is made of a row.

A table knows dates, decimals and bytes, which JSON does not. Written at the end of a stage they
would stop it after its work is done, so they are made plain, or refused, when a row is read.

    datetime, date, time     ISO 8601 text; a timedelta too: PT90S
    Decimal                  a number where JSON writes it exactly, else text
    bytes                    text, if they are UTF-8
    UUID                     text
    tuple, set, numpy array  list (a set is sorted); numpy scalars are plain numbers
    NaN, NaT                 null: tables write what is missing like this
"""

import datetime
import math
import uuid
from decimal import Decimal

from posttrain.cli import BadInput

LARGEST_EXPONENT = 300  # of a Decimal that becomes a number


def plain_row(columns, fields_read):
    """{column: value} of a table -> the same as plain JSON.

    fields_read: columns that something reads, where NaN is a mistake and not null. BadInput names
    the field.
    """
    row = {}
    for field, value in columns.items():
        row[str(field)] = _plain(value, str(field), field not in fields_read)
    return row


def _plain(value, field, nan_is_null):
    """A value as plain JSON. field: where it stands, as `meta.when`, for BadInput."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, dict):
        plain = {}
        for key, part in value.items():
            name = _text(str(key), field)
            plain[name] = _plain(part, f"{field}.{name}", nan_is_null)
        return plain
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)  # else its order would differ from run to run
    if isinstance(value, list | tuple):
        return [_plain(part, field, nan_is_null) for part in value]
    for kinds, read in READERS:
        if isinstance(value, kinds):
            return read(value, field, nan_is_null)
    if hasattr(value, "tolist"):  # numpy
        return _plain(_from_numpy(value), field, nan_is_null)
    raise BadInput(
        f"field '{field}': a {type(value).__name__} cannot stand in a record; remove the column, "
        "or make it text or numbers"
    )


# ---- kinds of values -----------------------------------------------------------------------------


def _text(value, field, _=None):
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadInput(
            f"field '{field}': half a surrogate pair in {ascii(value)[:40]}, which is no text"
        ) from None
    return str(value)


def _bytes(value, field, _):
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        raise BadInput(
            f"field '{field}': bytes that are no text in UTF-8; remove the column, or make it text"
        ) from None


def _integer(value, field, _):
    return int(value)


def _float(value, field, nan_is_null):
    if math.isnan(value):
        return _nan(field, nan_is_null)
    if math.isinf(value):
        raise BadInput(f"field '{field}': {value} is no number that JSON has; make it null")
    return float(value)


def _nan(field, nan_is_null):
    """null where the field is only carried."""
    if nan_is_null:
        return None
    raise BadInput(f"field '{field}': expected a value, got NaN; make it null if there is none")


def _decimal(value, field, nan_is_null):
    if not value.is_finite():
        return _float(float("nan" if value.is_nan() else value), field, nan_is_null)
    if abs(value.adjusted()) > LARGEST_EXPONENT:
        return str(value)
    number = int(value) if value == value.to_integral_value() else float(value)
    return number if Decimal(str(number)) == value else str(value)


def _moment(value, field, nan_is_null):
    if value != value:  # NaT of pandas
        return _nan(field, nan_is_null)
    return value.isoformat()


def _duration(value, field, nan_is_null):
    if value != value:
        return _nan(field, nan_is_null)
    seconds = f"{value.total_seconds():f}".rstrip("0").rstrip(".")
    return f"PT{seconds}S"


def _uuid(value, field, _):
    return str(value)


# (types, how a value of them is read), in the order in which they are tried
READERS = (
    (str, _text),
    ((bytes, bytearray, memoryview), _bytes),
    (int, _integer),
    (float, _float),
    (Decimal, _decimal),
    ((datetime.datetime, datetime.date, datetime.time), _moment),
    (datetime.timedelta, _duration),
    (uuid.UUID, _uuid),
)


def _from_numpy(value):
    """A numpy scalar or array as Python's own values; moments to the microsecond."""
    if getattr(value.dtype, "kind", "") in ("M", "m"):
        value = value.astype(f"{value.dtype.kind}8[us]")
    return value.tolist()
