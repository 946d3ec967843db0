"""Who is muted for how long, and the filter, which the kernel runs."""

import contextlib
import socket
from collections.abc import Collection
from ipaddress import ip_address

import pytest

from handover_nodeagent.kernel import bpf, syscalls
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.peers import mutes
from handover_nodeagent.peers.mutes import CALM, FIRST, LAST, MOST, Group, Muted, Mutes

NOW = 100.0
A = ip_address("10.0.0.1")


def test_at_first_nobody_is_muted() -> None:
    assert Mutes().due is None
    assert not Mutes().expire(NOW)


def test_who_is_muted_is_read_again_in_time() -> None:
    it = Mutes()
    assert it.mute(A, NOW)
    assert not it.mute(A, NOW + FIRST / 2), "it is already"
    assert it.muted == {A}
    assert it.due == NOW + FIRST
    assert not it.expire(NOW + FIRST - 0.001)
    assert it.expire(NOW + FIRST)
    assert it.muted == frozenset()


def test_the_time_doubles_up_to_the_last() -> None:
    it, now, lasting = Mutes(), NOW, []
    for _ in range(8):
        it.mute(A, now)
        assert it.due is not None
        lasting.append(round(it.due - now, 6))
        now = it.due
        it.expire(now)
    assert lasting == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 6.4]
    assert lasting[-1] == LAST


def test_after_a_calm_it_begins_with_the_first_again() -> None:
    it = Mutes()
    for _ in range(3):
        it.mute(A, NOW)
        it.expire(NOW + LAST)
    it.mute(A, NOW + 4 * FIRST + CALM)
    assert it.due == NOW + 4 * FIRST + CALM + FIRST


def test_just_before_it_is_calm_it_still_doubles() -> None:
    it = Mutes()
    it.mute(A, NOW)
    it.expire(NOW + FIRST)
    it.mute(A, NOW + FIRST + CALM - 0.001)
    assert it.due == pytest.approx(NOW + FIRST + CALM - 0.001 + 2 * FIRST)


def test_one_does_not_prolong_the_others_time() -> None:
    it = Mutes()
    it.mute(A, NOW)
    it.mute(Group.STRANGERS, NOW + 0.01)
    assert it.due == NOW + FIRST
    it.expire(NOW + FIRST)
    assert it.muted == {Group.STRANGERS}


def test_nobody_is_remembered_for_ever() -> None:
    it = Mutes()
    for number in range(100):
        it.mute(ip_address(number), NOW + number * 2)
        it.expire(NOW + number * 2 + 1)
    assert len(it._before) <= CALM / 2 + 1


LOOPBACKS = {
    4: [ip_address(f"127.0.0.{number}") for number in range(1, 5)],
    6: [ip_address("::1")],
}


def passing(version: int, program: bpf.Program) -> set[IPAddress]:
    """Let the kernel filter a datagram of each loopback address; return whose have come."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with contextlib.closing(socket.socket(family, socket.SOCK_DGRAM)) as receiving:
        receiving.bind((str(LOOPBACKS[version][0]), 0))
        receiving.settimeout(0)
        syscalls.attach_filter(receiving, program)
        for address in LOOPBACKS[version]:
            with contextlib.closing(socket.socket(family, socket.SOCK_DGRAM)) as sending:
                sending.bind((str(address), 0))
                sending.sendto(b"x", receiving.getsockname())
        came = set()
        with contextlib.suppress(BlockingIOError):
            while True:
                came.add(ip_address(receiving.recvfrom(9)[1][0]))
        return came


ONE, TWO, THREE, FOUR = LOOPBACKS[4]
V6 = ip_address("::1")
OTHER_V6 = ip_address("1::1")


@pytest.mark.parametrize(
    ("muted", "known", "expected"),
    [
        ([], [], {ONE, TWO, THREE, FOUR}),
        ([TWO], [], {ONE, THREE, FOUR}),
        ([TWO, FOUR, V6], [ONE], {ONE, THREE}),
        ([Group.STRANGERS], [ONE, THREE, V6], {ONE, THREE}),
        ([Group.STRANGERS, THREE], [ONE, THREE], {ONE}),
        ([Group.STRANGERS], [], set()),
    ],
)
def test_the_kernel_drops_who_is_muted(
    muted: Collection[Muted], known: Collection[IPAddress], expected: set[IPAddress]
) -> None:
    assert passing(4, mutes.program(4, muted, known)) == expected


@pytest.mark.parametrize(
    ("muted", "known", "passes"),
    [
        ([], [], True),
        ([V6], [], False),
        ([OTHER_V6], [], True),
        ([Group.STRANGERS], [V6], True),
        ([Group.STRANGERS], [OTHER_V6, ONE], False),
        ([Group.STRANGERS], [OTHER_V6, V6], True),
    ],
)
def test_all_of_an_ipv6_address_counts(
    muted: Collection[Muted],
    known: Collection[IPAddress],
    passes: bool,  # noqa: FBT001
) -> None:
    assert passing(6, mutes.program(16, muted, known)) == ({V6} if passes else set())


def test_the_longest_program_is_one_that_the_kernel_takes() -> None:
    many = [ip_address((1 << 120) + number) for number in range(MOST + 50)]
    program = mutes.program(16, [Group.STRANGERS], [*many[: MOST - 1], V6, *many[MOST:]])
    assert len(program) <= 4096
    assert passing(6, program) == {V6}
    assert passing(6, mutes.program(16, many, [])) == {V6}


def test_of_the_tunnel_all_is_dropped_or_nothing() -> None:
    assert passing(6, mutes.tunnel_program([Group.STRANGERS])) == {V6}
    assert passing(6, mutes.tunnel_program([Group.TUNNEL])) == set()
    assert passing(6, mutes.program(16, [Group.TUNNEL], [])) == {V6}
