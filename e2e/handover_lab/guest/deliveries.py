"""What came to a VM of its flows of pings, on whatever node it was."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import Self

from handover_lab.guest.vm import Vm
from handover_lab.network import delivery
from handover_lab.network.ping_record import DeliveryRecord
from handover_lab.network.traffic import Flow


class Deliveries:
    """The notes of all nodes on which *vm* can be."""

    def __init__(self, vm: Vm, records: Mapping[str, DeliveryRecord]) -> None:
        self.delivered: dict[str, dict[str, set[int]]] = {}
        """By flow and node, the numbers of its pings."""
        self._vm = vm
        self._records = records

    @classmethod
    @contextlib.contextmanager
    def kept(cls, vm: Vm) -> Iterator[Self]:
        """Let all nodes on which *vm* can be take notes."""
        with contextlib.ExitStack() as ends:
            yield cls(
                vm,
                {
                    name: ends.enter_context(DeliveryRecord.kept(node, vm.ports))
                    for name, node in vm.topology.nodes.items()
                },
            )

    async def note(self, flows: Mapping[str, Flow]) -> None:
        """Add what came of *flows* since the last time, if that was within a minute."""
        for spec in self._vm.flow_specs:
            if spec.kind != "ping":
                continue
            flow = flows[spec.name]
            for node, record in self._records.items():
                came = await asyncio.to_thread(record.delivered, spec.family, flow.identifier)
                known = self.delivered.setdefault(spec.name, {}).setdefault(node, set())
                known |= delivery.numbers(came, len(flow.recording.sent))
