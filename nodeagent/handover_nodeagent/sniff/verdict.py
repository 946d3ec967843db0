"""PURE: which frame proves that the guest runs here: the acceptance table, row by row.

Every address that a frame carries is compared with what is expected of this one endpoint; what the
frame alone can tell was decided in ``frames.py``.
"""

import dataclasses
import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from handover_api.workloadendpoint import Signal
from handover_nodeagent.network.model import IPAddress
from handover_nodeagent.sniff.frames import Frame, Kind, pack_mac

# IEEE 802: set in the first byte of what is no single station.
_GROUP_BIT: Final = 0x01
_NO_STATION: Final = bytes(6)
_ANSWERS: Final = frozenset({Kind.ARP_ANSWER, Kind.SOLICITED_NA})


class Reason(enum.StrEnum):
    """Why a frame proves nothing; the label of a metric."""

    FORGED_SENDER = "ForgedSender"
    """The Ethernet source is not the MAC that the payload gives, or no station's at all."""
    OTHER_MAC = "OtherMAC"
    NOT_ARMED = "NotArmed"
    UNKNOWN_MAC = "UnknownMAC"
    OTHER_ADDRESS = "OtherAddress"
    NOT_OUR_PROBE = "NotOurProbe"
    IRRELEVANT = "Irrelevant"
    """No announcement and no answer, or broken: given by the reader, never by :func:`judge`."""


class Accepted(NamedTuple):
    """The guest runs here. ``source`` is its MAC, packed: news where it was not known.

    ``is_answer``: the frame answers a probe, of whatever age.
    """

    signal: Signal
    source: bytes
    is_answer: bool = False

    @property
    def mac(self) -> str:
        """The guest's MAC as values have it."""
        return self.source.hex(":")


class NeedsConfirmation(NamedTuple):
    """An unsolicited NA for ``address``: it counts once the guest answers a probe."""

    address: bytes


class Rejected(NamedTuple):
    """The frame changes nothing."""

    reason: Reason


Verdict = Accepted | NeedsConfirmation | Rejected


@dataclass(frozen=True, slots=True)
class Expectation:
    """What one endpoint's announcement looks like; addresses are packed for the hot path.

    ``hint``: a MAC that the kernel's neighbor table has. It may be an old one's: where nobody told
    the guest's it lets its owner answer, but excludes no RARP; beside another ``mac`` it lets its
    owner answer a probe, and nothing else. ``askers``: in whose name our probes ask.
    ``advertised``: an unsolicited NA was heard, so that the next answer confirms it.
    """

    mac: bytes | None
    addresses: frozenset[bytes]
    askers: frozenset[bytes] = frozenset()
    armed: bool = True
    advertised: bool = False
    hint: bytes | None = None

    @property
    def known(self) -> bytes | None:
        """The MAC from which the guest's answers are expected."""
        return self.mac or self.hint

    @property
    def witness(self) -> bytes | None:
        """The MAC from which an answer counts, too, though another one was told."""
        # Where none was told the hint is itself the MAC that is expected.
        return self.hint if self.mac and self.hint != self.mac else None

    @classmethod
    def of(
        cls,
        mac: str | None,
        addresses: Iterable[IPAddress],
        *,
        askers: Iterable[IPAddress] = (),
        armed: bool = True,
        hint: str | None = None,
    ) -> Self:
        """Make one from values; *askers* are those of its ``arp_nd_questions.Questions``."""
        return cls(
            mac=pack_mac(mac) if mac else None,
            addresses=frozenset(address.packed for address in addresses),
            askers=frozenset(address.packed for address in askers),
            armed=armed,
            hint=pack_mac(hint) if hint else None,
        )

    def knowing(self, source: bytes) -> Self:
        """Return the expectation of a guest whose MAC an accepted RARP has taught."""
        return dataclasses.replace(self, mac=source, hint=None)


_FORGED_SENDER: Final = Rejected(Reason.FORGED_SENDER)
_OTHER_MAC: Final = Rejected(Reason.OTHER_MAC)
_NOT_ARMED: Final = Rejected(Reason.NOT_ARMED)
_UNKNOWN_MAC: Final = Rejected(Reason.UNKNOWN_MAC)
_OTHER_ADDRESS: Final = Rejected(Reason.OTHER_ADDRESS)
_NOT_OUR_PROBE: Final = Rejected(Reason.NOT_OUR_PROBE)


def judge(expected: Expectation, frame: Frame) -> Verdict:
    """Decide what *frame* proves; total, and without memory of earlier frames."""
    source = frame.source
    # An NA without its link-layer option claims nothing (b""), and so proves nothing.
    if source != frame.claimed or source[0] & _GROUP_BIT or source == _NO_STATION:
        return _FORGED_SENDER
    if expected.mac is not None and source != expected.mac and not _testifies(expected, frame):
        return _OTHER_MAC
    # Armed or not: QEMU sends it at the resume. What a pod's own kernel may send before that for
    # the guest's address is ARP and neighbor discovery.
    if frame.kind is Kind.RARP:
        return Accepted(Signal.RARP, source)
    return _objection(expected, frame) or _proof(expected, frame)


def _testifies(expected: Expectation, frame: Frame) -> bool:
    """Tell whether somebody else answers of whom that is wanted, too."""
    return frame.source == expected.witness and frame.kind in _ANSWERS


def _objection(expected: Expectation, frame: Frame) -> Rejected | None:
    """Anything but a RARP counts only while armed, from a known MAC, for the right address."""
    if not expected.armed:
        return _NOT_ARMED
    if expected.known is None:
        return _UNKNOWN_MAC
    if frame.source not in {expected.known, expected.witness}:
        return _OTHER_MAC
    if frame.address not in expected.addresses:
        return _OTHER_ADDRESS
    if frame.kind in _ANSWERS and frame.asker not in expected.askers:
        return _NOT_OUR_PROBE
    return None


def _proof(expected: Expectation, frame: Frame) -> Accepted | NeedsConfirmation:
    if frame.kind is Kind.GRATUITOUS_ARP:
        return Accepted(Signal.GRATUITOUS_ARP, frame.source)
    if frame.kind is Kind.UNSOLICITED_NA:
        return NeedsConfirmation(frame.address)
    # What is told is what the guest did by itself; the probe has only confirmed it.
    signal = Signal.NEIGHBOR_ADVERTISEMENT if expected.advertised else Signal.PROBE
    return Accepted(signal, frame.source, is_answer=True)
