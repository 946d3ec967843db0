"""Images of one static program each, packed without a builder: what every pod needs first."""

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from handover_lab import paths

SOURCE: Final = paths.SOURCES / "node" / "pause.c"
PAUSE: Final = "handover.dev/pause:1"
"""The image of every pod's first process."""

ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
"""What Go, and with it all images, call the machines."""


class ArchiveError(RuntimeError):
    """No image can be made here; the text says what to do."""


def pause(directory: Path) -> Path:
    """Compile the pause program and return the archive of its image, both in *directory*.

    Raises:
        ArchiveError: it cannot be compiled.
    """
    program = directory / "pause"
    compiler = ("gcc", "-static", "-Os", "-s", "-o", str(program), str(SOURCE))
    done = subprocess.run(compiler, check=False, capture_output=True, text=True)
    if done.returncode:
        message = (
            "The pods' first program cannot be compiled (apt-get install gcc libc6-dev has what"
            f" it takes): {done.stderr.strip()}"
        )
        raise ArchiveError(message)
    archive = directory / "pause.tar"
    archive.write_bytes(image(PAUSE, {"pause": program.read_bytes()}, ["/pause"]))
    return archive


def image(name: str, files: Mapping[str, bytes], entrypoint: list[str]) -> bytes:
    """Pack an image of one layer with the executable *files*."""
    layer = pack(files)
    configuration = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": entrypoint},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    # The format of `docker save`, which `ctr images import` reads.
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    return pack(
        {
            "layer.tar": layer,
            "config.json": json.dumps(configuration).encode(),
            "manifest.json": json.dumps(manifest).encode(),
        }
    )


def pack(files: Mapping[str, bytes]) -> bytes:
    """Pack executable *files* into a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            # Its time is 0 and its owner root: the same files give the same image.
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = 0o755, len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
