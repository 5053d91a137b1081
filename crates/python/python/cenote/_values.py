"""Conversions between Arrow's numbers and Python's values for types that the native part does not convert.

The first half agrees with pyarrow's `to_pylist`. The second half refuses values that a column cannot hold exactly, and
its exceptions say why.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any

_EPOCH = datetime(1970, 1, 1)
_UTC = datetime(1970, 1, 1, tzinfo=timezone.utc)
_EPOCH_DAY = _EPOCH.toordinal()
_MICROSECOND = timedelta(microseconds=1)
_NANOSECONDS = 1000  # a microsecond


def timestamps(unit: int, zone: str | None) -> Callable[[int], datetime]:
    """Returns a function from the distance from 1970, in units of `unit` nanoseconds, to a time."""
    place = None if zone is None else _zone(zone)
    if unit == 1 and (pandas := _pandas()):
        return lambda distance: pandas.Timestamp(distance, unit="ns", tz=place)
    if place is None:
        return lambda distance: _EPOCH + _duration(distance, unit)
    return lambda distance: (_UTC + _duration(distance, unit)).astimezone(place)


def durations(unit: int) -> Callable[[int], timedelta]:
    """Returns a function from a length in units of `unit` nanoseconds to a duration."""
    if unit == 1 and (pandas := _pandas()):
        return lambda length: pandas.Timedelta(length, unit="ns")
    return lambda length: _duration(length, unit)


def times(unit: int) -> Callable[[int], time]:
    """Returns a function from the distance from midnight, in units of `unit` nanoseconds, to a time of day."""
    return lambda distance: (_EPOCH + _duration(distance, unit)).time()


def from_days(days: int) -> date:
    """Returns the date `days` days after the first of January 1970."""
    return date.fromordinal(_EPOCH_DAY + days)


def _duration(length: int, unit: int) -> timedelta:
    microseconds, rest = divmod(length * unit, _NANOSECONDS)
    if rest:
        raise ValueError("Python's types end at microseconds, and this has nanoseconds")
    return timedelta(microseconds=microseconds)


def _zone(name: str) -> tzinfo:
    """Returns the zone of Arrow's name: `+02:00`, or a name of the time zone database."""
    if name in ("UTC", "Z"):
        return timezone.utc
    if name[0] in "+-":
        hours, minutes = int(name[1:3]), int(name[-2:])
        distance = timedelta(hours=hours, minutes=minutes)
        return timezone(-distance if name[0] == "-" else distance)
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except zoneinfo.ZoneInfoNotFoundError:
        # A machine without the database still gets the right instants.
        return timezone.utc


def _pandas() -> Any:
    """Returns pandas, whose times have nanoseconds, or `None` where it is not installed."""
    try:
        import pandas
    except ImportError:
        return None
    return pandas


def timestamp(value: Any, unit: int, zoned: bool) -> int | None:
    """Returns the distance of a time from 1970; pandas' `NaT` is null.

    A time without a zone is in UTC if the column has a zone.
    """
    if value != value:
        return None
    if isinstance(value := _item(value), int):
        return _units(value, unit)
    if not isinstance(value, datetime):
        raise TypeError("it is not a datetime")
    if value.tzinfo and not zoned:
        raise ValueError("it has a time zone, and the column has none")
    aware = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
    return _units((aware - _UTC) // _MICROSECOND * _NANOSECONDS + getattr(value, "nanosecond", 0), unit)


def duration(value: Any, unit: int) -> int | None:
    """Returns the length of a duration; pandas' `NaT` is null."""
    if value != value:
        return None
    if isinstance(value := _item(value), int):
        return _units(value, unit)
    if not isinstance(value, timedelta):
        raise TypeError("it is not a timedelta")
    return _units(value // _MICROSECOND * _NANOSECONDS + getattr(value, "nanoseconds", 0), unit)


def time_of_day(value: Any, unit: int) -> int:
    """Returns the distance of a time from midnight."""
    if not isinstance(value, time):
        raise TypeError("it is not a time")
    if value.tzinfo:
        raise ValueError("it has a time zone, and the column has none")
    return _units((datetime.combine(_EPOCH, value) - _EPOCH) // _MICROSECOND * _NANOSECONDS, unit)


def days(value: Any) -> int:
    """Returns the days of a date from the first of January 1970."""
    if not isinstance(value, date) or isinstance(value, datetime):
        raise TypeError("it is not a date")
    return value.toordinal() - _EPOCH_DAY


def _item(value: Any) -> Any:
    """Returns a time of numpy as one of Python; as nanoseconds if Python's are too coarse for its unit."""
    if getattr(getattr(value, "dtype", None), "kind", "") not in ("M", "m"):
        return value
    item = value.item()
    if isinstance(item, int):
        exact = value.astype(f"{value.dtype.kind}8[ns]")
        if exact != value:
            raise ValueError("it does not fit 64-bit nanoseconds")
        return int(exact.astype("int64"))
    # numpy has dates as times of a coarse unit.
    return item if isinstance(item, (datetime, timedelta)) else datetime.combine(item, time())


def _units(nanoseconds: int, unit: int) -> int:
    units, rest = divmod(nanoseconds, unit)
    if rest:
        raise ValueError("it is finer than the column's unit")
    return units


def digits(value: int | Decimal) -> tuple[int, int] | None:
    """Returns the precision and scale that a number needs as a decimal, or `None` beyond 76 digits."""
    number = Decimal(value)
    if not number.is_finite():
        return None
    _, written, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    scale = max(0, -exponent)
    precision = max(len(written) + max(0, exponent), scale, 1)
    return (precision, scale) if precision <= 76 else None


def unscaled(value: Any, precision: int, scale: int) -> str:
    """Returns the digits of a decimal as a whole number of units of the column's scale."""
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        raise TypeError("it is neither a Decimal nor an int")
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError("it is not a number")
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits)).lstrip("0") or "0"
    shift = exponent + scale
    if text != "0":
        if shift < 0 and text[shift:].strip("0") or len(text) + shift > precision:
            raise ValueError(f"it does not fit {precision} digits, {scale} of them behind the point")
        text = text[:shift] if shift < 0 else text + "0" * shift
    return f"-{text}" if sign else text
