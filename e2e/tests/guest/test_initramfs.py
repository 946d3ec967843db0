"""What goes into the guest, and what is said when it cannot be built."""

import shutil
from pathlib import Path

import pytest

from handover_lab.guest import initramfs
from handover_lab.guest.initramfs import GuestUnavailableError


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n",
            "linux-image-6.1.0-56-cloud-amd64",
        ),
        ("", ""),
        ("linux-image-cloud-amd64\n", ""),
    ],
    ids=["a release's kernel", "no package lists", "a metapackage of nothing"],
)
def test_the_kernel_is_what_the_metapackage_stands_for(answer: str, expected: str) -> None:
    assert expected == initramfs.kernel_package(answer)


def test_modules_keep_their_order_and_built_in_ones_are_left_out(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for path in (source / "net" / "virtio_net.ko", source / "core" / "failover.ko"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"ELF")
    target.mkdir()

    initramfs.copy_modules(source, target)

    assert (target / "order").read_text() == "failover.ko\nvirtio_net.ko\n"


def test_a_missing_program_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "cpio" else f"/bin/{name}")

    with pytest.raises(GuestUnavailableError, match="needs cpio: run apt-get install cpio"):
        initramfs.build()

    assert [path for path in initramfs.cache().iterdir() if path.is_dir()] == []


def test_a_failing_program_shows_its_last_words() -> None:
    with pytest.raises(GuestUnavailableError, match="sh failed: no space left"):
        initramfs.run("sh", "-c", "echo no space left >&2; exit 1")


def test_the_recipe_is_part_of_the_cache_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = initramfs.recipe_key()
    monkeypatch.setattr(initramfs, "RECIPE", initramfs.RECIPE + 1)

    assert before != initramfs.recipe_key()
