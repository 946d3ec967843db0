"""A share of the processors for the VM, as a node with its pods has one.

Without it an emulated guest hardly runs while pods start beside it. Its answers then come late and
in bursts, of which it loses a part itself: that must not pass for a network that loses.
"""

import contextlib
from collections.abc import Iterator
from typing import Final

from handover_lab.cluster.nodegroup import NodeGroup
from handover_lab.guest.vm import Vm
from handover_lab.network import tap
from handover_lab.toolchain import requirements

QUEUE_PACKETS: Final = 30_000
"""How many packets may wait in a tap: half a minute of them at one per millisecond."""


@contextlib.contextmanager
def reserved(vm: Vm) -> Iterator[None]:
    """Give *vm* its share, and room for what arrives for it; its end is the VM's."""
    group = NodeGroup.make(requirements.check(), "guests")
    group.prefer()
    for guest in vm.guests.values():
        # One that has ended, as with the share before, boots in this one.
        with contextlib.suppress(ProcessLookupError):
            group.take(guest.pid)
    vm.queue(QUEUE_PACKETS)
    vm.cpu_share = group
    try:
        yield
    finally:
        vm.cpu_share = None
        vm.queue(tap.USUAL)
        group.end()
