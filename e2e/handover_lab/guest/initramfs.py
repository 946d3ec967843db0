"""The guest's kernel and initramfs: Debian's cloud kernel, busybox and an echo server.

Built once per recipe into the user's cache and then only read. Nothing is installed: the kernel's
package is downloaded and unpacked.
"""

import hashlib
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from handover_lab import paths
from handover_lab.toolchain.cache import alone

SOURCES: Final = paths.SOURCES / "guest"
RECIPE: Final = 2
"""Part of the cache key: raise it when the steps below change."""

MODULES: Final = (
    "failover",
    "net_failover",
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_net",
)
"""In the order in which they load; what a kernel has built in is left out."""

METAPACKAGE: Final = "linux-image-cloud-amd64"
APPLETS: Final = ("cat", "insmod", "ip", "mount", "sh", "tr")
NEEDS: Final = {
    "apt-get": "apt",
    "apt-cache": "apt",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "dpkg-deb": "dpkg",
    "gcc": "gcc libc6-dev",
}


class GuestUnavailableError(RuntimeError):
    """This machine cannot build the guest; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Image:
    """What QEMU boots."""

    kernel: Path
    initramfs: Path
    version: str
    """The kernel's release, as uname prints it."""


def build() -> Image:
    """Return the guest's image, made now where the cache does not have it.

    Raises:
        GuestUnavailableError: a program or package is missing.
    """
    finished = cache() / recipe_key()
    with alone(finished.with_suffix(".lock")):
        if not finished.exists():
            # On the same file system, so that one rename makes the entry appear whole.
            with tempfile.TemporaryDirectory(dir=finished.parent) as directory:
                assemble(Path(directory) / "image", Path(directory))
                (Path(directory) / "image").rename(finished)
    return Image(
        finished / "vmlinuz", finished / "initramfs", (finished / "version").read_text().strip()
    )


def cache() -> Path:
    """Return the directory of all guest images, made where it is missing."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = root / "handover" / "guest"
    path.mkdir(parents=True, exist_ok=True)
    return path


def recipe_key() -> str:
    """Name the cache entry after everything of ours that goes into it."""
    digest = hashlib.sha256(repr((RECIPE, MODULES, APPLETS)).encode())
    for name in ("init", "echo.c"):
        digest.update((SOURCES / name).read_bytes())
    return digest.hexdigest()[:16]


def assemble(image: Path, directory: Path) -> None:
    """Make the three files of an image, with *directory* for what is only needed on the way."""
    for program, package in NEEDS.items():
        if shutil.which(program) is None:
            message = f"The guest needs {program}: run apt-get install {package}."
            raise GuestUnavailableError(message)
    image.mkdir()
    tree = directory / "tree"
    (tree / "modules").mkdir(parents=True)
    unpacked = directory / "unpacked"
    run("dpkg-deb", "--extract", str(download_kernel(directory)), str(unpacked))
    (kernel,) = (unpacked / "boot").glob("vmlinuz-*")
    shutil.copy(kernel, image / "vmlinuz")
    (image / "version").write_text(kernel.name.removeprefix("vmlinuz-") + "\n")
    copy_modules(unpacked / "lib" / "modules", tree / "modules")
    lay_out(tree)
    pack(tree, image / "initramfs")


def download_kernel(directory: Path) -> Path:
    """Download the release's cloud kernel; with fresh package lists where the old ones fail.

    Deliberately not the newest one there is (backports): QEMU and kernel of one release know each
    other. Under Debian 12's QEMU one migration in a hundred of a 6.12 guest ends in a panic, and
    none of its own 6.1.
    """
    for fresh in (False, True):
        if fresh:
            run("apt-get", "--quiet", "update", check=False)
        if name := kernel_package(run("apt-cache", "depends", METAPACKAGE, check=False)):
            run("apt-get", "--quiet", "download", name, directory=directory, check=False)
        for package in directory.glob("linux-image-*.deb"):
            return package
    message = (
        f"apt has no {METAPACKAGE} within reach: look at the output of apt-get update;"
        " the guest needs a Debian mirror."
    )
    raise GuestUnavailableError(message)


def kernel_package(depends: str) -> str:
    """Return the package that the metapackage stands for, or an empty string."""
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    return found[1] if found else ""


def copy_modules(source: Path, target: Path) -> None:
    """Copy the modules that this kernel has, uncompressed, with their order of loading."""
    order = []
    for name in MODULES:
        for path in source.rglob(f"{name}.ko*"):
            content = path.read_bytes()
            (target / f"{name}.ko").write_bytes(
                lzma.decompress(content) if path.suffix == ".xz" else content
            )
            order.append(f"{name}.ko\n")
    (target / "order").write_text("".join(order))


def lay_out(tree: Path) -> None:
    """Fill *tree* with the programs, the first script and the directories it mounts on."""
    for name in ("bin", "proc", "sys", "dev"):
        (tree / name).mkdir()
    busybox = Path(shutil.which("busybox") or "")
    # A dynamic program names its loader right after its headers.
    if b"ld-linux" in busybox.read_bytes()[:4096]:
        message = "This machine's busybox is not static: run apt-get install busybox-static."
        raise GuestUnavailableError(message)
    shutil.copy(busybox, tree / "bin" / "busybox")
    for applet in APPLETS:
        (tree / "bin" / applet).symlink_to("busybox")
    shutil.copy(SOURCES / "init", tree / "init")
    (tree / "init").chmod(0o755)
    compile_server(tree / "bin" / "echo-server")


def compile_server(path: Path) -> None:
    """Compile the guest's echo server; static, so it runs anywhere."""
    run("gcc", "-Os", "-static", "-s", "-o", str(path), str(SOURCES / "echo.c"))


def pack(tree: Path, archive: Path) -> None:
    """Pack *tree* the way the kernel wants it, owned by root, always in the same order."""
    names = "\n".join(sorted(str(path.relative_to(tree)) for path in tree.rglob("*")))
    run(
        # The kernel unpacks this format of cpio and no other (early-userspace/buffer-format).
        *("cpio", "--create", "--format=newc", "--owner=0:0", "--quiet", "--reproducible"),
        *("--file", str(archive)),
        directory=tree,
        text=names,
    )


def run(*argv: str, directory: Path | None = None, text: str = "", check: bool = True) -> str:
    """Run a program of the recipe and return its output; a failure shows its last words."""
    done = subprocess.run(
        argv, cwd=directory, input=text, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        message = f"The guest cannot be built, {argv[0]} failed: {done.stderr.strip()[-300:]}"
        raise GuestUnavailableError(message)
    return done.stdout


def main() -> int:
    """Build the image where there is none; the sandbox of the tests reaches no mirror."""
    try:
        image = build()
    except GuestUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{'guest':<24} {image.version:<8} cache              {image.kernel.parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
