"""Namespaces of nodes: what is their own, and what is said when the kernel refuses."""

import os
import socket
from pathlib import Path

import pytest

from handover_lab.network.namespaces import Namespace, NamespaceError

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]


def test_setup_runs_inside_before_the_namespace_is_handed_out(tmp_path: Path) -> None:
    kinds = ("net", "uts", "mount")
    script = f"echo inside > /proc/sys/kernel/hostname; mount -t tmpfs own {tmp_path}"

    namespace = Namespace.make("one", "sh", "-ec", script, kinds=kinds)

    try:
        assert namespace.run("cat /proc/sys/kernel/hostname") == "inside\n"
        namespace.run(f"touch {tmp_path}/file")
        assert list(tmp_path.iterdir()) == []
        assert socket.gethostname() != "inside"
    finally:
        namespace.end()


def test_what_setup_said_last_is_the_reason_of_the_error() -> None:
    with pytest.raises(NamespaceError, match="No namespace for one: overlay is unknown"):
        Namespace.make("one", "sh", "-c", "echo overlay is unknown; exit 1")
