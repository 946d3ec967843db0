"""What agents measured when the routes followed a guest, as a sentence for people."""

from collections.abc import Iterator

from handover_api.workloadendpoint import Cutover, Hold, HoldReason

_LONG = 10_000
"""Microseconds from which on milliseconds are easier to read."""


def sentence(cutover: Cutover) -> str:
    """Say what proved the guest and how long the others took from there, as far as it is known."""
    return ", ".join(_parts(cutover))


def _parts(cutover: Cutover) -> Iterator[str]:
    yield f"{cutover.signal} to route in {_span(cutover.announcement_to_route_microseconds)}"
    if cutover.announcement_to_redirect_microseconds is not None:
        yield f"to redirect in {_span(cutover.announcement_to_redirect_microseconds)}"
    yield from _nodes(cutover)
    if cutover.guest_silence_microseconds is not None:
        silence = f"the guest was silent for {_span(cutover.guest_silence_microseconds)}"
        # Two nodes' clocks are compared, and by how much that may be wrong belongs to the figure.
        error = cutover.clock_error_microseconds
        yield silence if error is None else f"{silence} (± {_span(error)})"
    if cutover.forwarded:
        yield f"packets sent on: {cutover.forwarded}"
    if cutover.roll_backs:
        yield f"went back: {cutover.roll_backs}"
    if cutover.hold:
        yield from _held(cutover.hold)


def _nodes(cutover: Cutover) -> Iterator[str]:
    if cutover.announcement_to_last_node_microseconds is not None:
        took = _span(cutover.announcement_to_last_node_microseconds)
        yield f"to the last of {cutover.nodes_followed or 1} other nodes in {took}"
    if cutover.nodes_silent:
        yield f"other nodes that have not answered: {cutover.nodes_silent}"


def _held(hold: Hold) -> Iterator[str]:
    # Who has switched it off wants to hear nothing of it.
    is_told = hold.reason is not None and hold.reason is not HoldReason.OFF
    why = f" ({hold.reason})" if is_told else ""
    if not hold.held and not hold.dropped:
        if why:
            yield f"held: 0{why}"
        return
    yield f"held: {hold.held}"
    # The reason stands with what it explains: what is lost, else what was not sent again.
    yield f"sent again: {hold.resent}{'' if hold.dropped else why}"
    if hold.doubled:
        yield f"maybe twice: {hold.doubled}"
    if hold.dropped:
        yield f"lost: {hold.dropped}{why}"


def _span(microseconds: int) -> str:
    if abs(microseconds) < _LONG:
        return f"{microseconds} µs"
    return f"{microseconds / 1000:.1f} ms"
