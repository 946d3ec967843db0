"""The network between nodes, taken apart."""

import os
import subprocess
import sys
from typing import Final

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]

BRIDGE: Final = """
ip link add bridge type bridge
for port in port11 port12; do ip link add $port master bridge type veth peer name to-$port; done
ip link add other type bridge
"""
DISCONNECT: Final = "from handover_lab.cluster import nodenetwork; nodenetwork.disconnect()"


@pytest.mark.parametrize("before", ["", BRIDGE], ids=["nothing", "a bridge with ports"])
def test_bridge_and_ports_are_removed_where_they_are_and_nothing_else(before: str) -> None:
    script = f"{before}\n'{sys.executable}' -c '{DISCONNECT}'\nls /sys/class/net"
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-ec", f"mount -t sysfs none /sys; {script}"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert {"bridge", "port11", "port12", "to-port11"}.isdisjoint(done.stdout.split())
    assert ("other" in done.stdout.split()) is bool(before)
