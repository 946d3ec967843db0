"""Gives the nodes a CNI under which a VM keeps its addresses: ../node/sticky says how.

Containerd looks into its directory of network configurations again whenever one changes, so a
cluster that runs already can have it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from handover_lab.cluster.node import SOURCES, Node
from handover_lab.network import tap

PLUGIN: Final = "sticky"
SYSTEM: Final = "/usr/lib/cni"
PREFIX: Final = "cali"
"""Of the names of nodes' ends."""


def install(node: Node, addresses: Sequence[str]) -> None:
    """Give launcher pods on *node* these addresses; any other pod gets what it got before.

    There is one VM; a plug-in for more of them would ask whose pod it is.
    """
    plugins = node.directory / "plugins"
    plugins.mkdir()
    write(plugins)
    # The system's plug-ins stay where containerd looks for them, and ours lies over them.
    node.run(f"mount -t overlay -o lowerdir={plugins}:{SYSTEM} plugins {SYSTEM}")
    file = node.directory / "cni" / "pods.conflist"
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(sticky(json.loads(file.read_text()), addresses)))
    # containerd reads it as soon as the directory changes: never half a file.
    fresh.replace(file)


def write(plugins: Path) -> None:
    """Write the plug-in into a directory, with what it needs."""
    for name, text in (
        (PLUGIN, (SOURCES / PLUGIN).read_text()),
        (f"{PLUGIN}-gateway", tap.GATEWAY),
    ):
        (plugins / name).write_text(text)
        (plugins / name).chmod(0o755)


def sticky(configuration: Mapping[str, Any], addresses: Sequence[str]) -> dict[str, Any]:
    """Put the plug-in before the first one of a network's configuration, which it then calls."""
    first, *others = configuration["plugins"]
    own = {**first, "type": PLUGIN, "addresses": " ".join(addresses)}
    return {**configuration, "plugins": [own, *others]}


def interface(namespace: str, pod: str) -> str:
    """Name the node's end of a launcher pod's network, as the plug-in does."""
    digest = hashlib.sha1(f"{namespace}.{pod}".encode(), usedforsecurity=False).hexdigest()
    return f"{PREFIX}{digest[:11]}"
