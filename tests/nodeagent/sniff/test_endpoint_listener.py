"""What a listener makes of another spec, and what it asks: over a listener that is played."""

import asyncio
import dataclasses
from ipaddress import ip_address

import pytest

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State
from handover_nodeagent.network.model import Link
from handover_nodeagent.sniff import capture, endpoint_listener
from handover_nodeagent.sniff.endpoint_listener import EndpointListener
from handover_nodeagent.sniff.listen_spec import ListenSpec
from handover_nodeagent.sniff.probe import ProbeSeries
from handover_nodeagent.sniff.verdict import Accepted, Expectation

MAC, OTHER = "52:54:00:65:00:02", "52:54:00:65:00:99"
KEY = ObjectKey("default", "vm")
LINK = Link(7, "tap0", "ee:ee:ee:ee:ee:ee", up=True)
SPEC = ListenSpec(LINK, (ip_address("10.65.0.2"),), (), MAC, True, State.TARGET, 3, 0.2)  # noqa: FBT003
GUESSED = dataclasses.replace(SPEC, mac=None, hint=MAC)


class Played:
    """Stands in for a listener: what is due is sent, unless the device takes nothing."""

    def __init__(
        self, ifindex: int, expected: Expectation, series: ProbeSeries, sink: object
    ) -> None:
        assert sink
        self.ifindex = ifindex
        self.expected = expected
        self.series = series
        self.sent: list[bytes] = []
        self.takes = True
        self.corrected = 0
        self.asked_at: float | None = None
        self.stopped = False

    def expect(self, expected: Expectation) -> None:
        self.expected = expected

    def probe(self, series: ProbeSeries) -> None:
        self.series, due = series.take(asyncio.get_running_loop().time())
        if self.takes:
            self.sent += due
        else:
            self.series = self.series.unsent(len(due))

    def correct(self) -> None:
        self.corrected += 1

    def stop(self) -> None:
        self.stopped = True


class Sink:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def heard(self, key: ObjectKey, episode: int, accepted: Accepted, received_at: int) -> None:
        assert key == KEY
        assert accepted
        assert received_at
        self.told.append(("heard", episode))

    def unaskable(self, key: ObjectKey, episode: int) -> None:
        assert key == KEY
        self.told.append(("unaskable", episode))

    def listening_changed(self, key: ObjectKey) -> None:
        assert key == KEY
        self.told.append(("listening", 0))


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture(autouse=True)
def played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_listener, "Listener", Played)


def opened(listening: EndpointListener) -> Played:
    """Return the one that it has now."""
    now: object = listening._listener
    assert isinstance(now, Played)
    return now


async def test_another_episode_has_a_probe_series_of_its_own(sink: Sink) -> None:
    """An answer to an older episode's probe proves nothing in this one."""
    listening = EndpointListener(KEY, SPEC, sink)
    listening.start_probes()
    assert opened(listening).series.has_asked
    listening.update(dataclasses.replace(SPEC, episode=4, state=State.ASKING, interval=0.0))
    assert opened(listening).series == ProbeSeries(SPEC.compose())


async def test_the_same_episode_keeps_its_probe_series_and_its_bound(sink: Sink) -> None:
    listening = EndpointListener(KEY, SPEC, sink)
    listening.start_probes()
    before = opened(listening).series
    listening.update(dataclasses.replace(SPEC))
    listening.update(dataclasses.replace(SPEC, armed=False))
    assert opened(listening).series is before
    assert not opened(listening).expected.armed
    listening.update(dataclasses.replace(SPEC, interval=0.5))
    assert (opened(listening).series.unanswered, opened(listening).series.interval) == (2, 0.5)


async def test_another_interval_waits_until_an_asking_has_ended(sink: Sink) -> None:
    listening = EndpointListener(KEY, SPEC, sink)
    listening.ask()
    asking = opened(listening).series
    listening.update(dataclasses.replace(SPEC, interval=0.5))
    assert opened(listening).series is asking


@pytest.mark.parametrize(
    "changes",
    [
        {"mac": OTHER},
        {"mac": None, "hint": OTHER},
        {"addresses": (ip_address("10.65.0.3"),)},
        {"gateways": (ip_address("10.65.0.1"),)},
        {"link": dataclasses.replace(LINK, mac="ee:ee:ee:ee:ee:00")},
    ],
    ids=["MAC", "hint", "address", "gateway", "our MAC"],
)
async def test_whoever_is_asked_otherwise_is_asked_at_once(
    sink: Sink, changes: dict[str, object]
) -> None:
    listening = EndpointListener(KEY, SPEC, sink)
    listening.start_probes()
    before = opened(listening).sent[:]
    spec = dataclasses.replace(SPEC, **changes)  # type: ignore[arg-type]
    listening.update(spec)
    assert opened(listening).sent[len(before) :] == [*spec.compose().all]
    assert opened(listening).sent[-1] != before[-1]
    assert opened(listening).expected == spec.expectation(spec.compose())


async def test_a_guess_may_ask_and_answer_but_excludes_no_rarp(sink: Sink) -> None:
    listening = EndpointListener(KEY, GUESSED, sink)
    listening.ask()
    assert opened(listening).sent == [*SPEC.compose().all]
    assert (opened(listening).expected.mac, opened(listening).expected.known) == (
        None,
        bytes.fromhex(MAC.replace(":", "")),
    )
    assert sink.told == []


async def test_a_mute_listener_listens_and_says_that_it_cannot_ask(sink: Sink) -> None:
    mute = dataclasses.replace(SPEC, is_mute=True)
    listening = EndpointListener(KEY, mute, sink)
    listening.start_probes()
    listening.renew_probes()
    listening.ask()
    await asyncio.sleep(0)
    assert opened(listening).sent == []
    assert mute.compose().corrections == ()
    assert opened(listening).expected.mac == SPEC.expectation(SPEC.compose()).mac
    assert sink.told == [("unaskable", 3)]
    listening.update(SPEC)
    assert opened(listening).sent


async def test_frames_start_the_probes_afresh_at_most_once_a_second(sink: Sink) -> None:
    listening = EndpointListener(KEY, SPEC, sink)
    for _ in range(100):
        listening.renew_probes()
    assert len(opened(listening).sent) == 1


async def test_silence_counts_from_the_first_probe_that_left(sink: Sink) -> None:
    listening = EndpointListener(
        KEY, dataclasses.replace(SPEC, state=State.ASKING, interval=0.0), sink
    )
    opened(listening).takes = False
    listening.ask()
    assert listening.silence_in(0.25) == endpoint_listener.UNSENT_PATIENCE
    assert listening.silence_in(0.25) == endpoint_listener.UNSENT_PATIENCE
    assert opened(listening).sent == []
    opened(listening).takes = True
    assert listening.silence_in(0.25) == endpoint_listener.UNSENT_PATIENCE
    assert opened(listening).sent
    assert 0.2 < listening.silence_in(0.25) <= 0.25
    assert listening.silence_in(0.0) == 0.0


async def test_nobody_is_at_the_other_end_of_a_link_without_a_carrier(sink: Sink) -> None:
    """A tap whose QEMU has ended takes no frame; one that is down may have its guest."""
    for up, expected in ((True, 0.0), (False, endpoint_listener.UNSENT_PATIENCE)):
        link = dataclasses.replace(LINK, up=up, carrier=False)
        listening = EndpointListener(KEY, dataclasses.replace(SPEC, link=link), sink)
        opened(listening).takes = False
        listening.ask()
        assert listening.silence_in(0.25) == expected


async def test_a_guest_that_nobody_can_listen_to_is_unaskable_but_not_silent(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Played:
        message = "too many open files"
        raise capture.CannotListenError(message)

    monkeypatch.setattr(endpoint_listener, "Listener", refuse)
    listening = EndpointListener(KEY, SPEC, sink)
    assert listening.silence_in(0.25) == endpoint_listener.UNSENT_PATIENCE
    await asyncio.sleep(0)
    assert ("unaskable", 3) in sink.told
    listening.close()
