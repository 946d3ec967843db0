"""The base of both images: of one Debian just Python, libnftables and what these load.

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

from handover_lab.images import buildah
from handover_lab.toolchain import cache
from handover_lab.toolchain.steps import Steps

RECIPE: Final = 2
"""Part of the cache key: raise it when the steps below change."""

PACKAGES: Final = ("base-files", "libc-bin", "libnftables1")
"""Beside Python's own, which have its version in their names."""

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
    "usr/lib/python3.*/ensurepip",
    "usr/lib/python3.*/idlelib",
    "usr/lib/python3.*/lib2to3",
    "usr/lib/python3.*/pydoc_data",
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
POCKETS: Final = ("", "updates", "security")
"""What a release has beside itself."""

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
    "usr/local/bin/python3": "/usr/bin/python3"
}
CONTAINERFILE: Final = 'FROM scratch\nCOPY . /\nCMD ["python3"]\n'


@dataclass(frozen=True, slots=True)
class Suite:
    """One release of Debian, and what a wheel must fit there."""

    name: str
    python: str
    glibc: int
    """The minor version of glibc; wheels for an older one fit too."""

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages that the base is made from."""
        return (*PACKAGES, f"libpython{self.python}-stdlib", f"python{self.python}-minimal")


SUITES: Final = {
    suite.name: suite
    for suite in (
        Suite("trixie", "3.13", glibc=41),
        Suite("bookworm", "3.11", glibc=36),
    )
}
NEWEST: Final = SUITES["trixie"]
"""Debian's newest stable release: its libnftables reads what every nft of a node has written."""


@dataclass(frozen=True, slots=True)
class Base:
    """What a Containerfile's BASE may be."""

    reference: str
    packages: Mapping[str, str]
    """Debian's packages and their versions; none where the base is somebody else's."""


def prepare(steps: Steps, suite: Suite, *, fresh: bool = False) -> Base:
    """Return our base, made now where the cache does not have it or *fresh* asks for it."""
    name = f"base-{recipe_key(suite)}"
    finished = cache.entry(name, lambda directory: assemble(directory, suite, steps), fresh=fresh)
    packages = json.loads((finished / "packages.json").read_text())
    return Base(f"oci-archive:{finished / 'base.tar'}", packages)


def recipe_key(suite: Suite) -> str:
    """Name the cache entry after everything that goes into it."""
    recipe = (RECIPE, suite, PACKAGES, UNWANTED, CLUTTER, FILES, LINKS, CONTAINERFILE)
    return hashlib.sha256(f"{recipe}{platform.machine()}".encode()).hexdigest()[:16]


def assemble(directory: Path, suite: Suite, steps: Steps) -> None:
    """Make ``base.tar`` and ``packages.json`` in the result of *directory*."""
    root, base = directory / "root", directory / cache.RESULT
    base.mkdir()
    steps.run(
        "unpacking Debian's Python and libnftables, the images' base",
        *("mmdebstrap", "--mode=root", "--variant=extract", "--format=directory"),
        *("--skip=cleanup/apt", f"--include={','.join(suite.packages)}"),
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        suite.name,
        root,
        *mirrors(suite),
    )
    (base / "packages.json").write_text(json.dumps(trim(root), indent=2))
    add_taps(root, suite)
    steps.run(
        "compiling Python's library",
        *("chroot", root, "/usr/bin/python3", "-m", "compileall", "-q"),
        *("--invalidation-mode", "unchecked-hash", f"/usr/lib/python{suite.python}"),
    )
    steps.run("listing the shared libraries", "ldconfig", "-r", root)
    # It notes when each library was made; only ldconfig reads it.
    shutil.rmtree(root / "var" / "cache" / "ldconfig")
    containerfile = directory / "Containerfile"
    containerfile.write_text(CONTAINERFILE)
    archive = f"oci-archive:{base / 'base.tar'}"
    buildah.build(steps, "packing the images' base", containerfile, root, archive)


def mirrors(suite: Suite) -> list[str]:
    """Return the sources of the suite at this machine's own mirrors; none: Debian's."""
    listed = subprocess.run(
        [
            *("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)"),
            *("Created-By: Packages", "Origin: Debian", "Component: main"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, None] = {}
    for line in listed.stdout.splitlines():
        address, release = line.split()
        # A mirror of one release has them all, and security's is an archive of its own.
        _, _, pocket = release.partition("-")
        if pocket in POCKETS:
            found[f"deb {address} {'-'.join(filter(None, (suite.name, pocket)))} main"] = None
    return list(found)


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


def add_taps(root: Path, suite: Suite) -> None:
    """Add the few files that maintainer scripts would have made."""
    for name, text in FILES.items():
        (root / name).write_text(text)
    for name, target in {**LINKS, "usr/bin/python3": f"python{suite.python}"}.items():
        link = root / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)


def fields(description: str, name: str) -> list[str]:
    """Return the values of one field of a package's description."""
    return re.findall(rf"^{name}: (.*)$", description, re.MULTILINE)


def output(*argv: str) -> bytes:
    """Return what a program of dpkg's prints."""
    return subprocess.run(argv, capture_output=True, check=True).stdout
