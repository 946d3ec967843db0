"""The base of both images: of Debian 12 just Python, libnftables and what these load.

Made from Debian's packages without a registry; no shell and no package tool is in it. Built once
per recipe into the user's cache and then only read.
"""

import hashlib
import io
import json
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from handover_lab import buildah, cache
from handover_lab.steps import Steps

RECIPE: Final = 1
"""Part of the cache key: raise it when the steps below change."""

SUITE: Final = "bookworm"
PYTHON: Final = "python3.11"
PACKAGES: Final = (
    "base-files",
    "libc-bin",
    "libnftables1",
    "libpython3.11-stdlib",
    "python3.11-minimal",
)
UNWANTED: Final = ("dpkg", "mawk", "tar")
"""Packages that others need to be installed and nobody needs to run."""

CLUTTER: Final = (
    # This machine's, which mmdebstrap copies for its own use.
    "etc/hostname",
    "etc/resolv.conf",
    "etc/apt",
    "etc/cron.daily",
    "etc/dpkg",
    # A container gets its own.
    "dev/*",
    "usr/lib/python3.11/ensurepip",
    "usr/lib/python3.11/idlelib",
    "usr/lib/python3.11/lib2to3",
    "usr/lib/python3.11/pydoc_data",
    "usr/lib/*/gconv",
    "usr/lib/*/perl*",
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/doc/*/changelog*",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt",
    "var/lib/apt",
    "var/lib/dpkg",
    "var/log/*",
)
FILES: Final = {
    "etc/group": "root:x:0:\nhandover:x:65532:\n",
    # glibc without this file asks DNS for localhost.
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/passwd": (
        "root:x:0:0:root:/root:/usr/sbin/nologin\n"
        "handover:x:65532:65532:handover:/nonexistent:/usr/sbin/nologin\n"
    ),
}
LINKS: Final = {
    # Where the public Python images have it, so that one shebang fits both.
    f"usr/local/bin/{PYTHON}": f"/usr/bin/{PYTHON}",
    "usr/bin/python3": PYTHON,
}
CONTAINERFILE: Final = f'FROM scratch\nCOPY . /\nCMD ["{PYTHON}"]\n'


@dataclass(frozen=True, slots=True)
class Base:
    """What a Containerfile's BASE may be."""

    reference: str
    packages: Mapping[str, str]
    """Debian's packages and their versions; none where the base is somebody else's."""


def prepare(steps: Steps, *, fresh: bool = False) -> Base:
    """Return our base, made now where the cache does not have it or *fresh* asks for it."""
    name = f"base-{recipe_key()}"
    finished = cache.entry(name, lambda room: assemble(room, steps), fresh=fresh)
    packages = json.loads((finished / "packages.json").read_text())
    return Base(f"oci-archive:{finished / 'base.tar'}", packages)


def recipe_key() -> str:
    """Name the cache entry after everything that goes into it."""
    recipe = (RECIPE, SUITE, PACKAGES, UNWANTED, CLUTTER, FILES, LINKS, CONTAINERFILE)
    return hashlib.sha256(f"{recipe}{platform.machine()}".encode()).hexdigest()[:16]


def assemble(room: Path, steps: Steps) -> None:
    """Make ``base.tar`` and ``packages.json`` in the result of *room*."""
    root, base = room / "root", room / cache.RESULT
    base.mkdir()
    steps.run(
        "unpacking Debian's Python and libnftables, the images' base",
        *("mmdebstrap", "--mode=root", "--variant=extract", "--format=directory"),
        *("--skip=cleanup/apt", f"--include={','.join(PACKAGES)}"),
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        SUITE,
        root,
        *mirrors(),
    )
    (base / "packages.json").write_text(json.dumps(trim(root), indent=2))
    furnish(root)
    steps.run(
        "compiling Python's library",
        *("chroot", root, f"/usr/bin/{PYTHON}", "-m", "compileall", "-q"),
        *("--invalidation-mode", "unchecked-hash", f"/usr/lib/{PYTHON}"),
    )
    steps.run("listing the shared libraries", "ldconfig", "-r", root)
    # It notes when each library was made; only ldconfig reads it.
    shutil.rmtree(root / "var" / "cache" / "ldconfig")
    containerfile = room / "Containerfile"
    containerfile.write_text(CONTAINERFILE)
    archive = f"oci-archive:{base / 'base.tar'}"
    buildah.build(steps, "packing the images' base", containerfile, root, archive)


def mirrors() -> list[str]:
    """Return this machine's own sources of the suite; none where it has another Debian."""
    listed = subprocess.run(
        [
            *("apt-get", "indextargets", "--format", "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"),
            *("Created-By: Packages", "Origin: Debian", "Component: main"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    wanted = {SUITE, f"{SUITE}-updates", f"{SUITE}-security"}
    return [line for line in listed.stdout.splitlines() if line.split()[2] in wanted]


def trim(root: Path) -> dict[str, str]:
    """Remove what nothing needs; return what is left, by package, as scanners can read it too."""
    descriptions = {}
    for archive in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        description = output("dpkg-deb", "--field", str(archive)).decode()
        (name,) = fields(description, "Package")
        if name in UNWANTED:
            remove_files(root, archive)
        else:
            descriptions[name] = description
    for pattern in CLUTTER:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    status = root / "var" / "lib" / "dpkg" / "status.d"
    status.mkdir(parents=True)
    for name, description in descriptions.items():
        (status / name).write_text(description)
    return {name: fields(text, "Version")[0] for name, text in descriptions.items()}


def remove_files(root: Path, archive: Path) -> None:
    """Remove the files of one Debian package from *root*."""
    listing = io.BytesIO(output("dpkg-deb", "--fsys-tarfile", str(archive)))
    with tarfile.open(fileobj=listing) as content:
        for member in content:
            if not member.isdir():
                (root / member.name).unlink(missing_ok=True)


def furnish(root: Path) -> None:
    """Add the few files that maintainer scripts would have made."""
    for name, text in FILES.items():
        (root / name).write_text(text)
    for name, target in LINKS.items():
        link = root / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)


def fields(description: str, name: str) -> list[str]:
    """Return the values of one field of a package's description."""
    return re.findall(rf"^{name}: (.*)$", description, re.MULTILINE)


def output(*argv: str) -> bytes:
    """Return what a program of dpkg's prints."""
    return subprocess.run(argv, capture_output=True, check=True).stdout
