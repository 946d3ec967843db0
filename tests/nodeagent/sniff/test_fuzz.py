"""A million random and mutated frames against an oracle that shares no code with the reader.

The kernel runs the very filter program on a socket pair, so that no privilege is needed to compare
it with what the reader would accept.
"""

import dataclasses
import random
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from handover_api.workloadendpoint import Signal
from handover_nodeagent.kernel import bpf, syscalls
from handover_nodeagent.sniff import frames, packet_filter, verdict
from handover_nodeagent.sniff.verdict import Accepted, Expectation, NeedsConfirmation

MAC = bytes.fromhex("525400650002")
OTHER = bytes.fromhex("525400650003")
IP = bytes([10, 65, 0, 2])
IP_2 = bytes([10, 65, 0, 3])
IP6 = ip_address("fd00:65::2").packed
IP6_2 = ip_address("fd00:65::3").packed
ASKER = bytes([169, 254, 1, 1])
ASKER6 = ip_address("fe80::1").packed
ALL_NODES = ip_address("ff02::1").packed

EXPECTED = Expectation(MAC, frozenset({IP, IP_2, IP6, IP6_2}), frozenset({ASKER, ASKER6}))
EXPECTATIONS = {
    "armed": EXPECTED,
    "unarmed": dataclasses.replace(EXPECTED, armed=False),
    "MAC unknown": dataclasses.replace(EXPECTED, mac=None),
    "MAC guessed": dataclasses.replace(EXPECTED, mac=None, hint=MAC),
    "MAC guessed, unarmed": dataclasses.replace(EXPECTED, mac=None, hint=MAC, armed=False),
    "another MAC may answer": dataclasses.replace(EXPECTED, hint=OTHER),
    "another MAC may answer, unarmed": dataclasses.replace(EXPECTED, hint=OTHER, armed=False),
    "another MAC with the same last bytes may answer": dataclasses.replace(
        EXPECTED, hint=bytes.fromhex("eeeeeeee0002")
    ),
    "the same MAC may answer": dataclasses.replace(EXPECTED, hint=MAC),
    "IPv4 only": dataclasses.replace(EXPECTED, addresses=frozenset({IP})),
    "IPv6 only": dataclasses.replace(EXPECTED, addresses=frozenset({IP6})),
    "0.0.0.0 is nobody's": dataclasses.replace(EXPECTED, addresses=frozenset({bytes(4), IP, IP6})),
    "nobody asks": dataclasses.replace(EXPECTED, askers=frozenset()),
    "many addresses": dataclasses.replace(
        EXPECTED,
        addresses=frozenset([IP6, *(bytes([10, 65, 0, n]) for n in range(15))]),
    ),
    "many addresses and another MAC": dataclasses.replace(
        EXPECTED,
        addresses=frozenset(bytes([10, 65, 0, n]) for n in range(16)),
        askers=frozenset([ASKER6, *(bytes([169, 254, 1, n]) for n in range(1, 17))]),
        hint=OTHER,
    ),
    "many IPv6 addresses and another MAC": dataclasses.replace(
        EXPECTED,
        addresses=frozenset(IP6[:15] + bytes([n]) for n in range(16)),
        askers=frozenset({ASKER6}),
        hint=OTHER,
    ),
    "many IPv6 addresses": dataclasses.replace(
        EXPECTED,
        addresses=frozenset(IP6[:15] + bytes([n]) for n in range(16)),
        askers=frozenset({ASKER6}),
    ),
}

HARDWARE = bytes.fromhex("0001 0800 06 04")
MACS = [MAC, OTHER, bytes(6), b"\xff" * 6, bytes.fromhex("eeeeeeeeeeee")]
ADDRESSES = [IP, IP_2, ASKER, bytes(4), bytes([10, 65, 0, 4])]
ADDRESSES6 = [IP6, IP6_2, ASKER6, ALL_NODES, bytes(16)]


def oracle(expected: Expectation, octets: bytes) -> Signal | None:
    """Read the acceptance table naively: slices, and one condition after the other."""
    signal = filter_oracle(expected, octets)
    octets = untagged(octets)
    if signal is None or octets[12:14] != b"\x86\xdd":
        return signal
    size = int.from_bytes(octets[18:20], "big")
    message = octets[54 : 54 + size]
    pseudo = octets[22:54] + size.to_bytes(4, "big") + b"\0\0\0\x3a" + message + b"\0" * (size % 2)
    total = sum(int.from_bytes(pseudo[at : at + 2], "big") for at in range(0, len(pseudo), 2))
    is_whole = total != 0 and total % 0xFFFF == 0 and _oracle_options(octets[6:12], message[24:])
    return signal if is_whole else None


def untagged(octets: bytes) -> bytes:
    """Take off one tag of VLAN 0."""
    is_tagged = octets[12:14] in {b"\x81\x00", b"\x88\xa8"} and len(octets) >= 16
    is_priority = is_tagged and octets[14] % 16 == 0 and octets[15] == 0
    return octets[:12] + octets[16:] if is_priority else octets


def filter_oracle(expected: Expectation, octets: bytes) -> Signal | None:
    """Read the table as far as a classic filter can: without an NA's checksum and options."""
    octets = untagged(octets)
    source, ethertype = octets[6:12], octets[12:14]
    if source == bytes(6) or source[:1] == b"" or source[0] % 2 == 1:
        return None
    if expected.mac not in {None, source}:
        if source != expected.hint:
            return None
        # Beside the guest's own, another MAC may answer and do nothing else.
        signal = filter_oracle(dataclasses.replace(expected, mac=expected.hint), octets)
        return signal if signal is Signal.PROBE else None
    if ethertype in {b"\x80\x35", b"\x08\x06"}:
        is_whole = len(octets) >= 42 and octets[14:20] == HARDWARE and octets[22:28] == source
        return _oracle_arp(expected, octets) if is_whole else None
    if ethertype == b"\x86\xdd" and expected.armed and source in {expected.mac, expected.hint}:
        return _oracle_na(expected, octets)
    return None


def _oracle_arp(expected: Expectation, octets: bytes) -> Signal | None:
    operation, sender_ip, target_ip = octets[20:22], octets[28:32], octets[38:42]
    if octets[12:14] == b"\x80\x35":
        return Signal.RARP if operation == b"\x00\x03" else None
    if not expected.armed or octets[6:12] not in {expected.mac, expected.hint}:
        return None
    if sender_ip == bytes(4):
        return None
    if sender_ip not in expected.addresses:
        return None
    if operation in {b"\x00\x01", b"\x00\x02"} and sender_ip == target_ip:
        return Signal.GRATUITOUS_ARP
    return Signal.PROBE if operation == b"\x00\x02" and target_ip in expected.askers else None


def _oracle_na(expected: Expectation, octets: bytes) -> Signal | None:
    size = int.from_bytes(octets[18:20], "big")
    message = octets[54 : 54 + size]
    if len(message) != size or size < 24 or octets[14] // 16 != 6 or octets[20:22] != b"\x3a\xff":
        return None
    if message[:2] != b"\x88\x00" or message[8:24] not in expected.addresses:
        return None
    if not message[4] & 0x40:
        return Signal.NEIGHBOR_ADVERTISEMENT
    return Signal.PROBE if octets[38:54] in expected.askers else None


def _oracle_options(source: bytes, options: bytes) -> bool:
    macs = []
    while options:
        if len(options) < 2 or options[1] == 0 or len(options) < 8 * options[1]:
            return False
        if options[0] == 2:
            macs.append(options[2 : 8 * options[1]])
        options = options[8 * options[1] :]
    return macs[:1] == [source]


def verdict_of(expected: Expectation, octets: bytes) -> Signal | None:
    """Return what the product makes of it; an unconfirmed NA is one."""
    frame = frames.parse(octets)
    judgment = verdict.judge(expected, frame) if frame else None
    if isinstance(judgment, NeedsConfirmation):
        return Signal.NEIGHBOR_ADVERTISEMENT
    return judgment.signal if isinstance(judgment, Accepted) else None


def arp(random_: random.Random) -> bytes:
    """Put an ARP or RARP together from likely parts."""
    one_of = random_.choice
    mac = one_of(MACS)
    return b"".join([
        *(one_of(MACS), mac, one_of([b"\x08\x06", b"\x08\x06", b"\x80\x35"]), HARDWARE),
        *(one_of([b"\x00\x01", b"\x00\x02", b"\x00\x03"]), one_of([mac, mac, *MACS])),
        *(one_of(ADDRESSES), one_of(MACS), one_of(ADDRESSES), one_of([b"", bytes(18)])),
    ])  # fmt: skip


def na(random_: random.Random) -> bytes:
    """Put an NA together from likely parts; its checksum is right."""
    one_of = random_.choice
    option = one_of([b"\x02\x01", b"\x02\x01", b"\x01\x01", b"\x02\x00"]) + one_of(
        [MAC, MAC, OTHER]
    )
    options = option * one_of([0, 1, 1, 1, 2])
    flags = one_of([b"\x20", b"\x60", b"\x40"]) + bytes(3)
    addresses = one_of(ADDRESSES6) + one_of(ADDRESSES6)
    target = one_of(ADDRESSES6)
    size = (24 + len(options)).to_bytes(2, "big")
    total = b"".join([addresses, bytes(2), size, b"\0\0\0\x3a\x88\0", flags, target, options])
    words = sum(int.from_bytes(total[at : at + 2], "big") for at in range(0, len(total), 2))
    check = (0xFFFF - words % 0xFFFF).to_bytes(2, "big")
    header = one_of(MACS) + one_of([MAC, MAC, OTHER]) + b"\x86\xdd\x60\0\0\0" + size + b"\x3a\xff"
    return b"".join([header, addresses, b"\x88\0", check, flags, target, options])


def tagged(random_: random.Random, octets: bytes) -> bytes:
    """Put none, one or two VLAN tags into a frame, most of them of id 0."""
    for _ in range(random_.choice([0] * 9 + [1, 1, 2])):
        kind = random_.choice([b"\x81\x00", b"\x81\x00", b"\x88\xa8", b"\x91\x00"])
        tag = random_.choice([b"\0\0", b"\0\0", b"\xe0\0", b"\0\x07", b"\x0f\0", b"\xf0\x01"])
        octets = octets[:12] + kind + tag + octets[12:]
    return octets


def mutated(random_: random.Random, octets: bytes) -> bytes:
    """Flip a byte, cut or lengthen, or leave it alone."""
    choice = random_.random()
    if choice < 0.5:
        at = int(random_.random() * len(octets))
        return octets[:at] + bytes([int(random_.random() * 256)]) + octets[at + 1 :]
    if choice < 0.6:
        return octets[: int(random_.random() * len(octets))]
    return octets + bytes(4) if choice < 0.65 else octets


def corpus(seed: int, seeds: int, per_seed: int) -> Iterator[bytes]:
    """Yield random bytes, and *seeds* likely frames each mutated *per_seed* times."""
    random_ = random.Random(seed)  # noqa: S311  # the same frames at every run
    for _ in range(seeds):
        likely = tagged(random_, random_.choice([arp, arp, na])(random_))
        yield random_.randbytes(int(random_.random() * 120))
        for _ in range(per_seed - 1):
            yield mutated(random_, likely)


def test_a_million_frames_are_judged_as_the_oracle_does() -> None:
    accepted = dict.fromkeys(Signal, 0)
    count = 0
    for octets in corpus(seed=20261124, seeds=20_000, per_seed=50):
        expected = oracle(EXPECTED, octets)
        assert verdict_of(EXPECTED, octets) == expected, octets.hex()
        count += 1
        if expected:
            accepted[expected] += 1
    assert count == 1_000_000
    # Else the corpus would prove nothing.
    assert min(accepted.values()) > 500


@pytest.mark.parametrize("expected", EXPECTATIONS.values(), ids=EXPECTATIONS.keys())
def test_other_expectations_are_judged_as_the_oracle_does(expected: Expectation) -> None:
    for octets in corpus(seed=7, seeds=1_000, per_seed=10):
        assert verdict_of(expected, octets) == oracle(expected, octets), octets.hex()


@pytest.fixture
def kernel() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give a pair of sockets; a filter on the second judges what the first one sends."""
    ours, filtered = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    filtered.settimeout(0)
    with ours, filtered:
        yield ours, filtered


def passes(kernel: tuple[socket.socket, socket.socket], octets: bytes) -> bool:
    """Tell whether the filter lets *octets* through, whole."""
    ours, filtered = kernel
    ours.send(octets)
    try:
        return filtered.recv(4096) == octets
    except BlockingIOError:
        return False


@pytest.mark.parametrize("expected", EXPECTATIONS.values(), ids=EXPECTATIONS.keys())
def test_the_filter_passes_what_would_be_accepted_and_nothing_else(
    kernel: tuple[socket.socket, socket.socket], expected: Expectation
) -> None:
    syscalls.attach_filter(kernel[1], packet_filter.compile_filter(expected))
    through = 0
    for octets in corpus(seed=99, seeds=1_500, per_seed=10):
        passed = bool(octets) and passes(kernel, octets)
        assert passed == (filter_oracle(expected, octets) is not None), octets.hex()
        through += passed
    assert through > 50


def test_the_filter_of_a_flooded_reader_passes_a_rarp_alone(
    kernel: tuple[socket.socket, socket.socket],
) -> None:
    syscalls.attach_filter(kernel[1], packet_filter.compile_rarp_only(EXPECTED))
    signals = {
        oracle(EXPECTED, octets)
        for octets in corpus(seed=5, seeds=2_000, per_seed=3)
        if octets and passes(kernel, octets)
    }
    assert signals == {Signal.RARP}


def test_the_candidates_are_every_arp_rarp_and_na_of_anybody(
    kernel: tuple[socket.socket, socket.socket],
) -> None:
    syscalls.attach_filter(kernel[1], packet_filter.CANDIDATES)
    for octets in corpus(seed=6, seeds=2_000, per_seed=3):
        ethertype = octets[12:14]
        is_na = ethertype == b"\x86\xdd" and octets[20:21] == b"\x3a" and octets[54:55] == b"\x88"
        is_candidate = ethertype in {b"\x08\x06", b"\x80\x35"} or is_na
        assert is_candidate == (bool(octets) and passes(kernel, octets)), octets.hex()


def test_nothing_passes_the_filter_of_a_muted_socket(
    kernel: tuple[socket.socket, socket.socket],
) -> None:
    syscalls.attach_filter(kernel[1], bpf.DROP_ALL)
    assert not any(passes(kernel, octets) for octets in corpus(3, 100, 3) if octets)
