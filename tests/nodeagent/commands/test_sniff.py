"""What a person sees of each frame."""

import builtins
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from tests.nodeagent.sniff.conftest import GARP, GUEST_MAC, Wire, run
from typer.testing import CliRunner

from handover_nodeagent.commands.sniff import sniff

app = typer.Typer()
app.command()(sniff)


@pytest.fixture
def sends(wire: Wire) -> Iterator[Callable[..., None]]:
    """Let the guest send, again and again, until the command has read what it wants."""
    stop = threading.Event()

    def repeat(*octets: bytes) -> None:
        guest = wire.guest_socket()

        def flood() -> None:
            with guest:
                while not stop.wait(0.01):
                    for each in octets:
                        guest.send(each)

        thread = threading.Thread(target=flood)
        thread.start()
        threads.append(thread)

    threads: list[threading.Thread] = []
    yield repeat
    stop.set()
    for thread in threads:
        thread.join()


@pytest.mark.root
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--mac", GUEST_MAC.upper(), "--ip", "10.65.0.2"], "YES: GratuitousARP of"),
        (["--mac", GUEST_MAC, "--ip", "10.65.0.2", "--unarmed"], "only a RARP would count"),
        (["--mac", "02:00:00:00:00:01", "--ip", "10.65.0.2"], "it comes from another MAC"),
        (["--ip", "10.65.0.2"], "the guest's MAC is not known"),
    ],
)
def test_a_frame_is_printed_with_its_verdict(
    sends: Callable[..., None], options: list[str], expected: str
) -> None:
    sends(GARP)
    result = CliRunner().invoke(app, ["tap", "--count", "1", *options])
    assert result.exit_code == 0, result.output
    assert "ARP who has 10.65.0.2 says 10.65.0.2" in result.output
    assert expected in result.output


@pytest.mark.root
def test_an_answer_to_the_agents_own_probe_counts(sends: Callable[..., None]) -> None:
    answer = GARP[:20] + b"\x00\x02" + GARP[22:38] + bytes([169, 254, 1, 1])
    sends(answer)
    options = ["--mac", GUEST_MAC, "--ip", "10.65.0.2", "--count", "1"]
    assert "YES: Probe" in CliRunner().invoke(app, ["tap", *options]).output
    elsewhere = ["--gateway", "10.65.0.1"]
    assert (
        "it answers somebody else" in CliRunner().invoke(app, ["tap", *options, *elsewhere]).output
    )


@pytest.mark.root
@pytest.mark.usefixtures("wire")
def test_an_interface_that_vanishes_ends_the_command_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait = select.select

    def lose_it_and_wait(*waited: Any) -> Any:
        run("ip link delete tap")
        return wait(*waited)

    monkeypatch.setattr(select, "select", lose_it_and_wait)
    result = CliRunner().invoke(app, ["tap"])
    assert result.exit_code == 1
    assert "is down or gone" in result.output


def test_a_missing_interface_is_said() -> None:
    result = CliRunner().invoke(app, ["nowhere0"])
    assert result.exit_code == 1
    assert "there is no interface nowhere0 here" in result.output


def test_a_wrong_address_is_said() -> None:
    result = CliRunner().invoke(app, ["lo", "--ip", "10.65.0.256"])
    assert result.exit_code == 2
    assert "10.65.0.256" in result.output


@pytest.mark.parametrize("mac", ["52:54", "zz"])
def test_a_wrong_mac_is_said_with_a_right_one(mac: str) -> None:
    result = CliRunner().invoke(app, ["lo", "--mac", mac])
    assert result.exit_code == 2
    assert f"'{mac}' is not a MAC such as 52:54:00:65:00:02" in result.output


@pytest.mark.root
def test_a_frame_is_shown_without_scapy(
    sends: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the agent's image."""
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("scapy"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    sends(GARP)
    result = CliRunner().invoke(
        app, ["tap", "--count", "1", "--mac", GUEST_MAC, "--ip", "10.65.0.2"]
    )
    assert result.exit_code == 0, result.output
    first, second = result.output.splitlines()
    assert first.startswith(
        "52:54:00:65:00:02 > ff:ff:ff:ff:ff:ff ARP request from 10.65.0.2 at 52"
    )
    assert second == "  YES: GratuitousARP of 52:54:00:65:00:02"


def test_the_command_is_there_without_scapy_being_imported() -> None:
    code = "import sys; import handover_nodeagent.commands.sniff; sys.exit('scapy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
