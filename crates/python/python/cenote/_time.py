"""Times as microseconds, for the native part."""

from datetime import date, datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1)
_UTC = datetime(1970, 1, 1, tzinfo=timezone.utc)


def from_naive(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)


def from_utc(micros: int) -> datetime:
    return _UTC + timedelta(microseconds=micros)


def from_days(days: int) -> date:
    return _EPOCH.date() + timedelta(days=days)


def to_naive(time: datetime) -> int:
    return (time.replace(tzinfo=None) - _EPOCH) // timedelta(microseconds=1)


def to_utc(time: datetime) -> int:
    aware = time if time.tzinfo else time.replace(tzinfo=timezone.utc)
    return (aware - _UTC) // timedelta(microseconds=1)
