"""The manifests that a user of Handover applies, and the names of its release."""

from pathlib import Path
from typing import Any, Final

import yaml

from handover_lab import paths

ENDPOINTS: Final = paths.EXAMPLES / "workloadendpoints.yaml"
RELEASE: Final = (
    *("handover", str(paths.CHART)),
    *("--namespace", "handover-system", "--create-namespace"),
)
"""What `helm install` and `helm upgrade` are given."""


def read(path: Path) -> list[dict[str, Any]]:
    """Read all objects of a manifest."""
    return [each for each in yaml.safe_load_all(path.read_text()) if each]
