"""The loop's listening: lost and found again, and when a guest is asked afresh."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
from tests.nodeagent.world import ELEVATED_V4, World, settings

from handover_nodeagent.retry.backoff import Backoff
from handover_nodeagent.retry.timers import Retry
from handover_nodeagent.sniff import capture, endpoint_listener
from handover_nodeagent.sniff.listener import Listener

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("mute")]


async def test_a_link_that_goes_down_takes_the_ears_and_brings_them_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link's notification does: after a long while down the next attempt would be far."""
    patient = Backoff(3600.0, 3600.0)
    monkeypatch.setattr(endpoint_listener, "Retry", lambda attempt: Retry(attempt, patient))
    world.put(said="target")
    await world.until_listening()
    world.node.run("ip link set tap0 down")
    await world.until_says("Listening", "False", "CannotListen")
    assert world.message("Listening")
    world.node.run("ip link set tap0 up")
    await world.until_listening()
    world.send()
    await world.shows(ELEVATED_V4)


async def test_ears_that_cannot_be_opened_are_tried_again_by_themselves(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file descriptor is left, say: nothing but time can tell that there is one again."""
    refusals = ["Too many open files"] * 3

    def refusing(*arguments: object) -> Listener:
        if refusals:
            raise capture.CannotListenError(refusals.pop())
        return Listener(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(endpoint_listener, "Listener", refusing)
    world.put(said="target")
    await world.until_says("Listening", "False", "CannotListen")
    assert "Too many open files" in world.message("Listening")
    assert world.state() == "Target"
    await world.until_listening()
    world.send()
    await world.shows(ELEVATED_V4)


def arm(world: World) -> None:
    """Let the migration come so far that an answer counts."""
    world.put(said="target", armed="true")


def follow_another_migration(world: World) -> None:
    """Let the endpoint be another migration's target."""
    world.put(said="target", uid="m2", armed="true")


def abort(world: World) -> None:
    """Let the migration fail."""
    world.put(said="target Aborted", armed="true")


def bounce(world: World) -> None:
    """Let the interface go down and up."""
    world.node.run("ip link set tap0 down")
    world.node.run("ip link set tap0 up")


@pytest.mark.parametrize(
    ("armed", "trigger"),
    [
        ("false", arm),
        ("true", follow_another_migration),
        ("true", abort),
        ("true", bounce),
    ],
    ids=["armed", "another migration", "aborted", "link event"],
)
async def test_what_may_have_brought_the_guest_starts_the_asking_afresh(
    world: World, armed: str, trigger: Callable[[World], None]
) -> None:
    """Guards 5.3: else the next probe would come when the slow series has its next turn."""
    world.configure(probeInterval="1h")
    with questions(world) as asked:
        world.put(said="target", armed=armed)
        await world.until_listening()
        if armed == "true":
            await world.until(asked)
        assert not asked()
        trigger(world)
        await world.until(asked)


async def test_the_next_agent_asks_at_once(world: World) -> None:
    with questions(world) as asked:
        world.put(said="target")
        await world.until(asked)
        await world.kill()
        asked()
        world.settings = settings(probeInterval="1h")
        await world.start(synced=False)
        await world.until(asked)


@contextlib.contextmanager
def questions(world: World) -> Iterator[Callable[[], bool]]:
    """Tell whether the guest was asked since the last look."""
    with contextlib.closing(world.node.guest_socket()) as guest:
        guest.settimeout(0)

        def asked() -> bool:
            frames: list[bytes] = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    frames.append(guest.recv(2048))
            return any(frame[12:14] == b"\x08\x06" and frame[21] == 1 for frame in frames)

        yield asked
