"""Where the parts of this checkout are; whoever needs one takes it from here."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
BUILD: Final = ROOT / "build"
CHART: Final = ROOT / "charts" / "handover"
CRDS: Final = ROOT / "crds"
DOCS: Final = ROOT / "docs"
EXAMPLES: Final = ROOT / "examples"

SOURCES: Final = ROOT / "e2e"
"""Of what is no Python: one folder each for the guest, the nodes, the tools, the floor in C."""
