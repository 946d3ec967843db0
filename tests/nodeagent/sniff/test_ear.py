"""What an ear makes of another tuning, and what it asks: over a listener that is played."""

import asyncio
import dataclasses
from ipaddress import ip_address

import pytest

from handover_api.names import ObjectKey
from handover_api.workloadendpoint import State
from handover_nodeagent.network.model import Link
from handover_nodeagent.sniff import capture
from handover_nodeagent.sniff import ear as ears
from handover_nodeagent.sniff.ear import Ear, Tuning
from handover_nodeagent.sniff.probe import ProbeSeries
from handover_nodeagent.sniff.verdict import Accepted, Expectation

MAC, OTHER = "52:54:00:65:00:02", "52:54:00:65:00:99"
KEY = ObjectKey("default", "vm")
LINK = Link(7, "tap0", "ee:ee:ee:ee:ee:ee", up=True)
TUNING = Tuning(LINK, (ip_address("10.65.0.2"),), (), MAC, True, State.TARGET, 3, 0.2)  # noqa: FBT003
GUESSED = dataclasses.replace(TUNING, mac=None, hint=MAC)


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


class Audience:
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

    def hearing_changed(self, key: ObjectKey) -> None:
        assert key == KEY
        self.told.append(("hearing", 0))


@pytest.fixture
def audience() -> Audience:
    return Audience()


@pytest.fixture(autouse=True)
def played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ears, "Listener", Played)


def listener(ear: Ear) -> Played:
    """Return the one that the ear has now."""
    now: object = ear._listener
    assert isinstance(now, Played)
    return now


async def test_another_episode_has_a_probe_series_of_its_own(audience: Audience) -> None:
    """An answer to an older episode's probe proves nothing in this one."""
    ear = Ear(KEY, TUNING, audience)
    ear.start_probes()
    assert listener(ear).series.has_asked
    ear.tune(dataclasses.replace(TUNING, episode=4, state=State.ASKING, interval=0.0))
    assert listener(ear).series == ProbeSeries(TUNING.compose())


async def test_the_same_episode_keeps_its_probe_series_and_its_bound(audience: Audience) -> None:
    ear = Ear(KEY, TUNING, audience)
    ear.start_probes()
    before = listener(ear).series
    ear.tune(dataclasses.replace(TUNING))
    ear.tune(dataclasses.replace(TUNING, armed=False))
    assert listener(ear).series is before
    assert not listener(ear).expected.armed
    ear.tune(dataclasses.replace(TUNING, interval=0.5))
    assert (listener(ear).series.unanswered, listener(ear).series.interval) == (2, 0.5)


async def test_another_interval_waits_until_an_asking_has_ended(audience: Audience) -> None:
    ear = Ear(KEY, TUNING, audience)
    ear.ask()
    asking = listener(ear).series
    ear.tune(dataclasses.replace(TUNING, interval=0.5))
    assert listener(ear).series is asking


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
    audience: Audience, changes: dict[str, object]
) -> None:
    ear = Ear(KEY, TUNING, audience)
    ear.start_probes()
    before = listener(ear).sent[:]
    tuning = dataclasses.replace(TUNING, **changes)  # type: ignore[arg-type]
    ear.tune(tuning)
    assert listener(ear).sent[len(before) :] == [*tuning.compose().all]
    assert listener(ear).sent[-1] != before[-1]
    assert listener(ear).expected == tuning.expectation(tuning.compose())


async def test_a_guess_may_ask_and_answer_but_excludes_no_rarp(audience: Audience) -> None:
    ear = Ear(KEY, GUESSED, audience)
    ear.ask()
    assert listener(ear).sent == [*TUNING.compose().all]
    assert (listener(ear).expected.mac, listener(ear).expected.known) == (
        None,
        bytes.fromhex(MAC.replace(":", "")),
    )
    assert audience.told == []


async def test_a_mute_ear_listens_and_says_that_it_cannot_ask(audience: Audience) -> None:
    mute = dataclasses.replace(TUNING, is_mute=True)
    ear = Ear(KEY, mute, audience)
    ear.start_probes()
    ear.renew_probes()
    ear.ask()
    await asyncio.sleep(0)
    assert listener(ear).sent == []
    assert mute.compose().corrections == ()
    assert listener(ear).expected.mac == TUNING.expectation(TUNING.compose()).mac
    assert audience.told == [("unaskable", 3)]
    ear.tune(TUNING)
    assert listener(ear).sent


async def test_frames_start_the_probes_afresh_at_most_once_a_second(audience: Audience) -> None:
    ear = Ear(KEY, TUNING, audience)
    for _ in range(100):
        ear.renew_probes()
    assert len(listener(ear).sent) == 1


async def test_silence_counts_from_the_first_probe_that_left(audience: Audience) -> None:
    ear = Ear(KEY, dataclasses.replace(TUNING, state=State.ASKING, interval=0.0), audience)
    listener(ear).takes = False
    ear.ask()
    assert ear.silence_in(0.25) == ears.UNSENT_PATIENCE
    assert ear.silence_in(0.25) == ears.UNSENT_PATIENCE
    assert listener(ear).sent == []
    listener(ear).takes = True
    assert ear.silence_in(0.25) == ears.UNSENT_PATIENCE
    assert listener(ear).sent
    assert 0.2 < ear.silence_in(0.25) <= 0.25
    assert ear.silence_in(0.0) == 0.0


async def test_nobody_is_at_the_other_end_of_a_link_without_a_carrier(audience: Audience) -> None:
    """A tap whose QEMU has ended takes no frame; one that is down may have its guest."""
    for up, expected in ((True, 0.0), (False, ears.UNSENT_PATIENCE)):
        link = dataclasses.replace(LINK, up=up, carrier=False)
        ear = Ear(KEY, dataclasses.replace(TUNING, link=link), audience)
        listener(ear).takes = False
        ear.ask()
        assert ear.silence_in(0.25) == expected


async def test_a_guest_that_nobody_can_listen_to_is_unaskable_but_not_silent(
    audience: Audience, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Played:
        message = "too many open files"
        raise capture.CannotListenError(message)

    monkeypatch.setattr(ears, "Listener", refuse)
    ear = Ear(KEY, TUNING, audience)
    assert ear.silence_in(0.25) == ears.UNSENT_PATIENCE
    await asyncio.sleep(0)
    assert ("unaskable", 3) in audience.told
    ear.close()
