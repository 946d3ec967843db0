"""What was measured is told in one sentence, and what was not is left out."""

import datetime as dt
from typing import Any

import pytest

from handover_api.workloadendpoint import Cutover, Signal
from handover_operator.status import measurements

WHEN = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)


def cutover(**measured: Any) -> Cutover:
    """Return what an agent measured."""
    return Cutover(
        signal=Signal.RARP, announcement_to_route_microseconds=180, time=WHEN, **measured
    )


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ({}, ""),
        ({"announcement_to_redirect_microseconds": 640}, ", to redirect in 640 µs"),
        (
            {"announcement_to_last_node_microseconds": 12_340, "nodes_followed": 7},
            ", to the last of 7 other nodes in 12.3 ms",
        ),
        ({"nodes_followed": 0, "nodes_silent": 2}, ", other nodes that have not answered: 2"),
        ({"nodes_followed": 3, "nodes_silent": 0}, ""),
        ({"guest_silence_microseconds": 48_000}, ", the guest was silent for 48.0 ms"),
        (
            {"guest_silence_microseconds": -30, "clock_error_microseconds": 35},
            ", the guest was silent for -30 µs (± 35 µs)",
        ),
        ({"forwarded": 12, "roll_backs": 1}, ", packets sent on: 12, went back: 1"),
        ({"forwarded": 0, "roll_backs": 0}, ""),
    ],
)
def test_a_sentence_has_what_was_measured(measured: dict[str, int], said: str) -> None:
    assert measurements.sentence(cutover(**measured)) == f"RARP to route in 180 µs{said}"
