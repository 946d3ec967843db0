"""Images made without a builder; that containerd runs them is shown by every cluster."""

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from handover_lab.images import archive
from handover_lab.images.archive import ArchiveError


def unpack(content: bytes) -> dict[str, bytes]:
    """Read all files of a tar archive."""
    with tarfile.open(fileobj=io.BytesIO(content)) as packed:
        return {entry.name: file.read() for entry in packed if (file := packed.extractfile(entry))}


def test_the_manifest_leads_to_layer_and_configuration() -> None:
    files = unpack(archive.image("one:1", {"bin/one": b"program"}, ["/bin/one"]))

    (manifest,) = json.loads(files["manifest.json"])
    (layer,) = manifest["Layers"]
    configuration = json.loads(files[manifest["Config"]])
    assert manifest["RepoTags"] == ["one:1"]
    assert unpack(files[layer]) == {"bin/one": b"program"}
    assert configuration["config"]["Entrypoint"] == ["/bin/one"]
    digest = f"sha256:{hashlib.sha256(files[layer]).hexdigest()}"
    assert configuration["rootfs"]["diff_ids"] == [digest]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc: apt-get install gcc")
def test_a_program_that_cannot_be_compiled_names_the_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(archive, "SOURCE", tmp_path / "pause.c")
    archive.SOURCE.write_text("int main(void) { broken }")

    with pytest.raises(ArchiveError, match=r"(?s)gcc libc6-dev.*broken"):
        archive.pause(tmp_path)
