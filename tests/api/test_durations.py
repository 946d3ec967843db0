"""Durations as Go and CEL write them."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handover_api.model import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", dt.timedelta()),
        ("0s", dt.timedelta()),
        ("200ms", dt.timedelta(milliseconds=200)),
        ("30s", dt.timedelta(seconds=30)),
        ("10m", dt.timedelta(minutes=10)),
        ("1h", dt.timedelta(hours=1)),
        ("7us", dt.timedelta(microseconds=7)),
        ("7µs", dt.timedelta(microseconds=7)),
        ("1m30s", dt.timedelta(seconds=90)),
        ("1.5h", dt.timedelta(minutes=90)),
        ("0.125ms", dt.timedelta(microseconds=125)),
        ("30s1m", dt.timedelta(seconds=90)),
        ("999999h", dt.timedelta(hours=999_999)),
    ],
)
def test_a_duration_is_read(text: str, expected: dt.timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",
        "s",
        "-30s",
        "+30s",
        "30 s",
        "30s ",
        "30S",
        "1d",
        "1,5s",
        ".5s",
        "5.s",
        "1e3s",
        "1.2345s",  # a part of a unit has three digits at most
        "0.5us",  # no part of a microsecond
        "0.5µs",
        "5ns",
        "٣s",  # digits, but not ours
        "1000000h",  # more than an int64 of nanoseconds holds a few of
        "1h1m1s1ms1us1h1m1s1ms",  # longer than the schema allows
        "Infinity",
    ],
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as 200ms, 30s or 10m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (dt.timedelta(), "0"),
        (dt.timedelta(milliseconds=200), "200ms"),
        (dt.timedelta(minutes=10), "10m"),
        (dt.timedelta(seconds=90), "1m30s"),
        (dt.timedelta(days=1, microseconds=1), "24h1us"),
    ],
)
def test_a_duration_is_written_without_empty_units(value: dt.timedelta, expected: str) -> None:
    assert format_duration(value) == expected


@given(st.timedeltas(dt.timedelta(), dt.timedelta(hours=1000, microseconds=-1)))
def test_what_is_written_is_read_back(value: dt.timedelta) -> None:
    assert parse_duration(format_duration(value)) == value


@given(st.text("0123456789.hmsuµ", max_size=20))
def test_whatever_is_read_fits_what_go_and_cel_can_hold(text: str) -> None:
    try:
        value = parse_duration(text)
    except ValueError:
        return
    assert dt.timedelta() <= value < dt.timedelta(microseconds=(1 << 63) // 1000)
