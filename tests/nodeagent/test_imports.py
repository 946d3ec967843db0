"""What the program that runs on every node keeps out of its memory."""

import pkgutil
import subprocess
import sys
from typing import Final

import handover_nodeagent

ONLY_CHECK: Final = "handover_nodeagent.commands.check.observation"
"""Imported by the check command while it runs."""
ONLY_CHECK_BGP: Final = frozenset(
    f"handover_nodeagent.commands.check_bgp.{name}" for name in ("experiment", "probe", "speakers")
)
"""Imported by the check-bgp command while it runs: who changes a route there judges by pyroute2."""


def test_what_only_check_needs_is_not_imported_by_the_daemon() -> None:
    """All modules but the one that may: whatever ``run`` imports, and when, is among them."""
    modules = [
        module.name
        for module in pkgutil.walk_packages(handover_nodeagent.__path__, "handover_nodeagent.")
        if module.name not in {ONLY_CHECK, *ONLY_CHECK_BGP}
    ]
    assert {"handover_nodeagent.__main__", "handover_nodeagent.main"} <= set(modules)
    assert "handover_nodeagent.commands.check.surroundings" in modules
    code = f"""
import sys, {", ".join(modules)}
assert "pyroute2" not in sys.modules
import {ONLY_CHECK}
assert "pyroute2" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
