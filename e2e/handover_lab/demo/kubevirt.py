"""`make demo-kubevirt`: the same for KubeVirt, of which somebody applies a VMIM and no more.

    python -m handover_lab.demo.kubevirt [--keep]

KubeVirt is simulated, down to its objects' fields and their order; the pods of the VM, what moves
between them, and all that follows are real. Exit status as that of `make demo`.
"""

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from handover_lab import paths
from handover_lab.demo import command, demonstration
from handover_lab.demo.demonstration import Demonstration
from handover_lab.guest import cpu_share
from handover_lab.guest.vm import Move
from handover_lab.kubevirt.lab import KubeVirtLab
from handover_lab.lab import Migrated

PROGRAM: Final = "handover_lab.demo.kubevirt"
VMIM: Final = "vmim"


class KubeVirtDemo(Demonstration[KubeVirtLab]):
    """Demonstrate Handover beside a KubeVirt that is simulated."""

    opening = "The operator has found KubeVirt, and its VM"
    migrations = (VMIM, "vmim-back")
    commands_before = ("get vmim,lm", "get wep", "describe lm")
    commands_after = ("get pods --all-namespaces -o wide", "get vmi,vmim", "get lm,wep")
    hints = ("get vmi,vmim,lm,wep", "delete vmim --all", f"apply -f examples/{VMIM}.yaml")

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[KubeVirtLab]:
        """Start the cluster first: the VM's pods need it, though routes are moved by hand."""
        tell = self.fact_order.add
        cluster = await self.start_cluster(self.network)
        async with (
            KubeVirtLab.open_vm(self.network, self.directory, tell, self.carrier) as vm,
            KubeVirtLab.on(cluster, vm, tell) as lab,
            contextlib.AsyncExitStack() as ends,
        ):
            ends.enter_context(cpu_share.reserved(vm))
            lab.late_ms = demonstration.LATE_MS
            await self.without(vm, lab.boot, lambda: self.move_late(lab))
            # The VM stays where it is, and from now on nobody moves its routes any more.
            lab.late_ms = None
            await lab.kubectl("delete", "--filename", str(self._manifest(VMIM)), "--wait")
            yield lab

    async def move_late(self, lab: KubeVirtLab) -> Move:
        """Move the VM from HOME to AWAY, and its route by hand, LATE_MS after it."""
        self.chapter(f"kubectl apply -f examples/{VMIM}.yaml")
        return await lab.carry_out(self._manifest(VMIM))

    async def begin(self, lab: KubeVirtLab) -> None:
        """Wait until the VM has its endpoint, which nobody applies."""
        await lab.served()

    async def migrate(self, lab: KubeVirtLab, manifest: Path) -> Migrated:
        """Migrate once as *manifest* says; the first time with a look at the objects."""
        lab.look = lambda: self.ask_before(lab)
        return await lab.follow(manifest)

    def _manifest(self, name: str) -> Path:
        return paths.EXAMPLES / f"{name}.yaml"


def main() -> int:
    """Demonstrate Handover beside a simulated KubeVirt."""
    return command.run(PROGRAM, KubeVirtDemo)


if __name__ == "__main__":
    sys.exit(main())
