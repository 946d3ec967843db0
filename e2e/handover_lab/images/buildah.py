"""Buildah without a trace: its storage lives beside the result and goes with the build."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from handover_lab.toolchain.steps import Steps


def build(
    steps: Steps,
    step: str,
    containerfile: Path,
    context: Path,
    archive: str,
    arguments: Mapping[str, str] | None = None,
) -> None:
    """Build one image into *archive*, ``docker-archive:…`` or ``oci-archive:…``.

    The storage is plain directories (vfs): no mount is left behind, and any file system will do.
    """
    with TemporaryDirectory(prefix="storage-", dir=context.parent) as storage:
        steps.run(
            step,
            *("buildah", "--root", f"{storage}/root", "--runroot", f"{storage}/run"),
            *("--storage-driver", "vfs", "bud", "--isolation", "chroot"),
            # The same inputs give the same image.
            *("--timestamp", "0"),
            *(
                part
                for pair in (arguments or {}).items()
                for part in ("--build-arg", "=".join(pair))
            ),
            *("--file", containerfile, "--tag", archive, context),
        )
