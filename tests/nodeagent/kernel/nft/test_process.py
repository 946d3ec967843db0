"""A library that crashes, exits, hangs or grows costs its own process, and nothing else."""

import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.nodeagent.node import V4, Node
from tests.nodeagent.world import NORMAL_V4, World, count

from handover_nodeagent import metrics
from handover_nodeagent.commands.check import surroundings
from handover_nodeagent.kernel.arp_guard import rules
from handover_nodeagent.kernel.nft import libnftables
from handover_nodeagent.kernel.nft.outcome import Answer
from handover_nodeagent.kernel.nft.process import NftProcess
from handover_nodeagent.kernel.nft.writer import Writer

pytestmark = pytest.mark.root

STAND_IN = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
void *nft_ctx_new(unsigned flags) {
  if (!EXIT_AT_START) return "";
  fputs("Unable to initialize Netlink socket: no nf_tables\n", stderr);
  exit(3);
}
int nft_ctx_buffer_output(void *c) { return 0; }
int nft_ctx_buffer_error(void *c) { return 0; }
void nft_ctx_output_set_flags(void *c, unsigned f) {}
const char *nft_ctx_get_output_buffer(void *c) { return "shown"; }
const char *nft_ctx_get_error_buffer(void *c) { return "<x>:1:1-3: Error: no such thing\nno\n"; }
int nft_run_cmd_from_buffer(void *c, const char *text) {
  if (CRASH || strstr(text, "crash")) *(volatile int *)0 = 1;
  if (strstr(text, "hang")) pause();
  if (strstr(text, "grow")) for (;;) { char *p = malloc(1 << 20); if (!p) abort(); *p = 1; }
  return strstr(text, "refuse") != 0;
}
"""


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Build libraries that misbehave as libnftables does in the field."""
    directory = tmp_path_factory.mktemp("stand-in")

    def build(*, crash: bool = False, exit_at_start: bool = False) -> str:
        library = directory / f"lib{crash}{exit_at_start}.so"
        defines = [f"-DCRASH={crash:d}", f"-DEXIT_AT_START={exit_at_start:d}"]
        command = ["gcc", "-shared", "-fPIC", "-w", *defines, "-x", "c", "-", "-o", str(library)]
        subprocess.run(command, input=STAND_IN, text=True, check=True)
        return str(library)

    return build


@pytest.fixture
def process(stand_in: Callable[..., str]) -> Iterator[NftProcess]:
    """Give a process with a library that does as it is told."""
    it = NftProcess("handover-test", stand_in())
    yield it
    it.close()


def test_a_crash_is_an_answer_and_the_next_question_is_answered(process: NftProcess) -> None:
    text = "libnftables died of SIGSEGV: a table that a newer nft made may be too new for it"
    assert process.run("crash") == Answer(trouble=text, is_lost=True)
    assert process.run("fine") == Answer()
    assert process.show("fine") == Answer(b"shown")
    assert process.run("refuse") == Answer(trouble="no such thing")


def test_a_library_that_hangs_is_ended(process: NftProcess) -> None:
    assert process.run("fine") == Answer()
    pid = process.pid
    process._patience = 0.2
    text = "libnftables gave no answer within 0 s"
    assert process.run("hang") == Answer(trouble=text, is_lost=True)
    assert not Path(f"/proc/{pid}").exists()
    process._patience = 10
    assert process.run("fine") == Answer()


def test_a_library_that_takes_all_memory_ends_alone(process: NftProcess) -> None:
    answer = process.run("grow")
    assert answer.is_lost
    assert "SIGABRT" in answer.trouble
    assert process.run("fine") == Answer()


def test_a_library_that_calls_exit_leaves_its_last_words(stand_in: Callable[..., str]) -> None:
    process = NftProcess("handover-test", stand_in(exit_at_start=True))
    text = "libnftables ended itself: Unable to initialize Netlink socket: no nf_tables"
    assert process.run("fine") == Answer(trouble=text, is_lost=True)
    process.close()


def test_a_process_that_is_killed_while_it_is_asked_is_told(process: NftProcess) -> None:
    process.run("fine")
    pid = process.pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    killer = threading.Timer(0.05, os.kill, (pid, signal.SIGKILL))
    killer.start()
    assert process.run("fine").trouble == "libnftables was ended by SIGKILL"
    killer.join()
    assert process.run("fine") == Answer()


def test_the_process_inherits_nothing_but_its_socket_and_leaves_no_core(
    process: NftProcess, tmp_path: Path
) -> None:
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003  its only form
        process.run("fine")
    kinds = [str(each.readlink()) for each in Path(f"/proc/{process.pid}/fd").iterdir()]
    assert sorted(kind.split(":")[0] for kind in kinds if not kind.startswith("/dev/null")) == [
        "/memfd",
        "socket",
    ]
    assert "handover-test" in Path(f"/proc/{process.pid}/comm").read_text()


def test_the_process_dies_with_the_thread_that_asks(stand_in: Callable[..., str]) -> None:
    """As it does with the whole agent, also after a SIGKILL and with a library that hangs."""
    process = NftProcess("handover-test", stand_in())

    def ask() -> None:
        process.run("fine")
        assert process._socket
        # Nobody reads the end of the file while the library hangs.
        process._socket.sendall(libnftables.HEADER.pack(libnftables.RUN, 4) + b"hang")

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert process._process
    assert process._process.wait(5) == -signal.SIGKILL
    process.close()


async def test_a_crashing_library_costs_the_guard_and_no_route(
    node: Node, world: World, stand_in: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.kill()
    monkeypatch.setattr(Writer.__init__, "__defaults__", (stand_in(crash=True),))
    await world.start()
    world.put()
    await world.shows(NORMAL_V4)
    await world.until(lambda: world.condition("Unguarded") == ("True", "GuardRefused"))
    assert "libnftables died of SIGSEGV" in world.message("Unguarded")
    assert world.condition("Programmed") == ("True", "Programmed")
    assert count(metrics.GUARD_OFF) == 1
    world.loop.enforcer.guard.writer._process._library = libnftables.LIBRARY
    await world.until(lambda: world.condition("Unguarded") is None)
    assert "saddr ip 10.65.0.2" in node.run("nft list ruleset arp")
    assert count(metrics.GUARD_OFF) == 0


@pytest.mark.usefixtures("mute")
async def test_without_a_library_changes_start_no_process_each(
    world: World, stand_in: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.kill()
    monkeypatch.setattr(Writer.__init__, "__defaults__", (stand_in(crash=True),))
    await world.start()
    world.put()
    guard = world.loop.enforcer.guard
    await world.until(lambda: guard.trouble != "")
    assert guard._retry.is_waiting
    guard._retry.cancel()
    failed = count(metrics.GUARD_ERRORS)
    for _ in range(50):
        guard.touch(["tap0"])
        guard.replace()
    assert not guard._work.is_set()
    assert count(metrics.GUARD_ERRORS) == failed


@pytest.mark.usefixtures("node")
def test_the_check_survives_a_library_that_crashes(stand_in: Callable[..., str]) -> None:
    (found,) = surroundings.nftables(stand_in(crash=True))
    assert "libnftables died of SIGSEGV" in found.message
    assert found.verdict == "fail"


def test_a_table_of_a_newer_nft_costs_no_agent(node: Node) -> None:
    """What the library makes of it is its own affair: it answers, or its process dies."""
    add_set_of_a_newer_nft()
    process = NftProcess("handover-test", libnftables.LIBRARY)
    answer = process.run(rules.render({"tap0": frozenset({V4})}))
    guard = node.run("nft list table arp handover") if not answer.is_lost else ""
    assert ("10.65.0.2" in guard) is not answer.is_lost
    process.close()


def add_set_of_a_newer_nft() -> None:
    """Add table ip t with a set of which nft 1.0.6 cannot read what its key was made from."""
    typeof = tlv(3, tlv(0, struct.pack("=I", 0)) + tlv(1, tlv(0, bytes(4))))
    key = attribute(4, struct.pack("!I", 41)) + attribute(5, struct.pack("!I", 16))
    names = attribute(1, b"t\0") + attribute(2, b"s\0") + attribute(3, bytes(4))
    identity = attribute(10, struct.pack("!I", 1))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:
        sock.send(
            message(0x10, 1, 0, b"")
            + message(0xA00, 0x401, 2, attribute(1, b"t\0"))
            + message(0xA09, 0x405, 2, names + key + identity + attribute(13, typeof))
            + message(0x11, 1, 0, b"")
        )
        sock.settimeout(5)
        assert sock.recv(4096)[16:20] == bytes(4)


def message(kind: int, flags: int, family: int, body: bytes) -> bytes:
    """Return one message to nfnetlink; outside of a batch's ends its subsystem is ignored."""
    rest = struct.pack("=BBH", family, 0, socket.htons(10)) + body
    return struct.pack("=IHHII", 16 + len(rest), kind, flags, 1, 0) + rest


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def tlv(kind: int, value: bytes) -> bytes:
    """Return one item of nft's own user data."""
    return bytes((kind, len(value))) + value
