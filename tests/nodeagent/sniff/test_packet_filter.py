"""The shape of the filter programs, and the edges of what they let through.

A small interpreter runs them, so that a tag may be there which the kernel has taken off. What they
let through at large stands in ``test_fuzz.py``.
"""

import dataclasses
from collections.abc import Callable
from ipaddress import ip_address

import pytest
from tests.nodeagent import classic_bpf
from tests.nodeagent.classic_bpf import ALU, CLASS, JUMP, LENGTH, MISC, OPERAND_X, RETURN

from handover_nodeagent.kernel import bpf
from handover_nodeagent.kernel.bpf import Program
from handover_nodeagent.sniff import frames, packet_filter
from handover_nodeagent.sniff.verdict import Expectation

EXPECTED = Expectation.of(
    "52:54:00:65:00:02",
    map(ip_address, ["10.65.0.2", "10.65.0.3", "fd00:65::2"]),
    askers=map(ip_address, ["169.254.1.1", "fe80::1"]),
    hint="52:54:00:65:00:03",
)
PROGRAMS = {
    "all": packet_filter.compile_filter(EXPECTED),
    "RARP of anybody": packet_filter.compile_filter(Expectation.of(None, [])),
    "RARP alone": packet_filter.compile_rarp_only(EXPECTED),
    "candidates": packet_filter.CANDIDATES,
    "nothing": bpf.DROP_ALL,
}
every = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())


@every
def test_what_decides_nothing_has_no_jumps(program: Program) -> None:
    """As BPF_STMT makes it: a kernel may refuse what it does not know."""
    others = [each for each in program if each.code & CLASS != JUMP]
    assert {(each.jump_true, each.jump_false) for each in others} <= {(0, 0)}


@every
def test_an_operand_that_nobody_reads_is_zero(program: Program) -> None:
    unread = [
        each.k
        for each in program
        if each.code in {MISC, LENGTH}
        or (each.code & CLASS in {ALU, JUMP} and each.code & OPERAND_X)
    ]
    assert set(unread) <= {0}


@every
def test_a_frame_is_dropped_or_kept_as_far_as_the_reader_reads(program: Program) -> None:
    assert {each.k for each in program if each.code == RETURN} <= {0, 2048}
    assert program[-1].code == RETURN
    assert packet_filter.SNAP_LENGTH == 2048


LEFT = 0x0FFF


def kept(program: Program, octets: bytes, tag: int | None = None) -> bool:
    """Run *program* on a frame off which the kernel has taken *tag*."""
    # Where there was no tag, nobody promises anything of the field.
    ancillary = {44: LEFT if tag is None else tag, 48: int(tag is not None)}
    return classic_bpf.run(program, octets, ancillary) != 0


MAC = bytes.fromhex("525400650002")
HARDWARE = bytes.fromhex("0001 0800 06 04")


def rarp(mac: bytes = MAC) -> bytes:
    """Return the RARP of a station."""
    return b"\xff" * 6 + mac + b"\x80\x35" + HARDWARE + b"\0\3" + mac + bytes(4) + mac + bytes(4)


def na(
    target: str = "fd00:65::2", *, first: int = 0x60, size: int = 24, present: int = 24
) -> bytes:
    """Return an unsolicited NA whose header tells *size* bytes and that has *present* ones."""
    message = b"\x88\0\0\0\x20\0\0\0" + ip_address(target).packed + bytes(40)
    header = bytes([first, 0, 0, 0]) + size.to_bytes(2, "big") + b"\x3a\xff" + bytes(32)
    return b"\xff" * 6 + MAC + b"\x86\xdd" + header + message[:present]


def tagged(octets: bytes) -> bytes:
    """Put a tag of priority alone into the bytes."""
    return octets[:12] + b"\x81\0\xe0\0" + octets[12:]


@pytest.mark.parametrize("put", [bytes, tagged], ids=["untagged", "tagged"])
@pytest.mark.parametrize(
    ("octets", "expected"),
    {
        "RARP": (rarp(), True),
        "RARP that is cut": (rarp()[:-1], False),
        "NA without options": (na(), True),
        "NA of another traffic class": (na(first=0x6F), True),
        "IPv7": (na(first=0x70), False),
        "NA that is cut": (na(size=32, present=31), False),
        "NA of a size that its target exceeds": (na(size=23), False),
        "padded NA": (na(present=40), True),
        "NA for an address that ends like a size": (na("fd00:65::2a"), True),
        "NA for another address": (na("fd00:65::2e"), False),
    }.values(),
)
def test_a_frame_passes_whole_and_not_one_byte_shorter(
    put: Callable[[bytes], bytes], octets: bytes, *, expected: bool
) -> None:
    addresses = EXPECTED.addresses | {ip_address("fd00:65::2a").packed}
    program = packet_filter.compile_filter(dataclasses.replace(EXPECTED, addresses=addresses))
    assert kept(program, put(octets)) is expected


@pytest.mark.parametrize(
    ("tag", "expected"),
    [(None, True), (0, True), (0xE000, True), (1, False), (7, False), (0xE007, False)],
)
def test_a_tag_that_the_kernel_took_off_may_be_a_priority_alone(
    tag: int | None, *, expected: bool
) -> None:
    assert kept(PROGRAMS["all"], rarp(), tag) is expected


@pytest.mark.parametrize(
    ("mac", "expected"),
    [
        ("02:00:00:00:00:00", True),
        ("00:00:00:00:00:02", True),
        ("52:54:00:65:00:02", True),
        ("00:00:00:00:00:00", False),
        ("01:00:00:00:00:00", False),
    ],
)
def test_a_station_has_an_address_of_its_own(mac: str, *, expected: bool) -> None:
    assert kept(PROGRAMS["RARP of anybody"], rarp(frames.pack_mac(mac))) is expected


def test_an_arp_whose_bytes_spell_an_ipv6_address_is_of_nobody() -> None:
    """Sender and target are 253.0.0.101, which is how the address begins, and goes on."""
    address = ip_address("fd00:65::fd00:65:2")
    program = packet_filter.compile_filter(Expectation.of("52:54:00:65:00:02", [address]))
    arp = b"\xff" * 6 + MAC + b"\x08\x06" + HARDWARE + b"\0\2" + MAC + address.packed
    assert not kept(program, arp)
    known = ip_address("253.0.0.101")
    assert kept(packet_filter.compile_filter(Expectation.of("52:54:00:65:00:02", [known])), arp)


GUEST, WITNESS, TARGET = "02:13:57:9b:df:f1", "02:24:68:ac:e0:e2", "2001:db8:3:4:5:6:7:8"


def answer(mac: str, address: bytes) -> bytes:
    """Return an ARP reply of a station to 169.254.1.1, for *address*."""
    packed = frames.pack_mac(mac)
    head = b"\xff" * 6 + packed + b"\x08\x06" + HARDWARE + b"\0\2" + packed + address
    return head + bytes(6) + ip_address("169.254.1.1").packed


def differing(packed: bytes) -> list[bytes]:
    """Return what differs from *packed* by one bit, in each of its bytes."""
    changed = ((at, bytes([packed[at] ^ 0x10])) for at in range(len(packed)))
    return [packed[:at] + octet + packed[at + 1 :] for at, octet in changed]


def test_every_byte_of_an_address_counts() -> None:
    """No byte is zero and none stands twice: a wrong place shows."""
    addresses = [ip_address("198.51.100.7"), ip_address(TARGET)]
    asker = ip_address("169.254.1.1")
    expected = Expectation.of(GUEST, addresses, askers=[asker], hint=WITNESS)
    program = packet_filter.compile_filter(expected)
    ipv4 = addresses[0].packed
    for mac in (GUEST, WITNESS):
        assert kept(program, answer(mac, ipv4))
        for other in differing(frames.pack_mac(mac)):
            assert not kept(program, answer(other.hex(":"), ipv4))
        for other in differing(ipv4):
            assert not kept(program, answer(mac, other))
    right = na(TARGET).replace(MAC, frames.pack_mac(GUEST))
    assert kept(program, right)
    for other in differing(ip_address(TARGET).packed):
        assert not kept(program, right.replace(ip_address(TARGET).packed, other))


@pytest.mark.parametrize(("length", "most_askers"), [(4, 16), (16, 1)])
def test_as_many_addresses_as_an_endpoint_may_have_fit(length: int, most_askers: int) -> None:
    """A jump reaches no farther than 255 instructions: none of them begin alike here.

    Each IPv4 address may have a nearest gateway of its own; all of IPv6 are asked for by one.
    """
    own, others = ([bytes([one, n] * (length // 2)) for n in range(16)] for one in (10, 20))
    expected = dataclasses.replace(
        EXPECTED, addresses=frozenset(own), askers=frozenset(others[:most_askers])
    )
    assert len(packet_filter.compile_filter(expected)) < 250


def test_a_common_set_of_addresses_costs_little() -> None:
    """One address of each family, each asked for in one name, and nobody else may answer."""
    program = packet_filter.compile_filter(dataclasses.replace(EXPECTED, hint=None))
    assert len(program) <= 110
