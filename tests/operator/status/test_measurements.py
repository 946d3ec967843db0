"""What was measured is told in one sentence, and what was not is left out."""

import datetime as dt
from typing import Any

import pytest

from handover_api.workloadendpoint import Cutover, Hold, HoldReason, Signal
from handover_operator.status import measurements

WHEN = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)


def cutover(**measured: Any) -> Cutover:
    """Return what an agent measured."""
    return Cutover(
        signal=Signal.RARP, announcement_to_route_microseconds=180, time=WHEN, **measured
    )


def hold(
    held: int = 0,
    resent: int = 0,
    doubled: int = 0,
    dropped: int = 0,
    reason: HoldReason | None = None,
) -> dict[str, Hold]:
    """Return what became of packets that were held."""
    counts = {"held": held, "resent": resent, "doubled": doubled, "dropped": dropped}
    return {"hold": Hold(**counts, reason=reason)}


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
        (hold(12, 12), ", held: 12, sent again: 12"),
        ({"forwarded": 7} | hold(1, 1), ", packets sent on: 7, held: 1, sent again: 1"),
        (hold(12, 12, doubled=1), ", held: 12, sent again: 12, maybe twice: 1"),
        (
            hold(12, 12, 1, 3, HoldReason.TOO_MUCH),
            ", held: 12, sent again: 12, maybe twice: 1, lost: 3 (TooMuch)",
        ),
        (hold(12, 10, dropped=2), ", held: 12, sent again: 10, lost: 2"),
        (
            hold(12, reason=HoldReason.NOT_REDIRECTED),
            ", held: 12, sent again: 0 (NotRedirected)",
        ),
        (
            hold(dropped=3, reason=HoldReason.REFUSED),
            ", held: 0, sent again: 0, lost: 3 (Refused)",
        ),
        (hold(), ""),
        (hold(reason=HoldReason.OFF), ""),
        *(
            (hold(reason=reason), f", held: 0 ({reason})")
            for reason in HoldReason
            if reason is not HoldReason.OFF
        ),
    ],
)
def test_a_sentence_has_what_was_measured(measured: dict[str, Any], said: str) -> None:
    assert measurements.sentence(cutover(**measured)) == f"RARP to route in 180 µs{said}"
