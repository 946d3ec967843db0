"""An image's Python packages: the pinned, hash-checked ones that one program needs, and no other.

They are chosen for the image's Python and libc; this machine's own may be others.
"""

import hashlib
import platform
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from handover_lab.images.base import Suite
from handover_lab.toolchain import cache
from handover_lab.toolchain.steps import StepError, Steps

RECIPE: Final = 1
"""Part of the cache key: raise it when the way of installing changes."""

PROJECT: Final = "handover"
SCRIPT: Final = """#!/usr/local/bin/python3
from {package}.cli import app

app()
"""
CLUTTER: Final = (
    "bin",
    "CHANGELOG*",
    "CONTRIBUTING*",
    "LICENSE*",
    "README*",
    "pyproject.toml",
    "**/tests",
    "**/*.pyi",
    "**/*.pyx",
    "**/*.pxd",
    "**/*.h",
)
"""Scripts of others, and what careless packages lay beside their code or only compilers read."""


def closure(extra: str) -> tuple[str, ...]:
    """Name every package that ``handover[extra]`` needs, directly or not."""
    found: set[tuple[str, str]] = set()
    open_ends = {(PROJECT, "")} | {(PROJECT, extra)}
    while open_ends:
        name, wanted = open_ends.pop()
        found.add((name, wanted))
        for line in metadata.requires(name) or ():
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": wanted}):
                needed = canonicalize_name(need.name)
                open_ends |= {(needed, each) for each in {"", *need.extras}} - found
    return tuple(sorted({name for name, _ in found} - {PROJECT}))


def pinned(names: tuple[str, ...], constraints: str) -> str:
    """Return the part of *constraints* that pins these packages and their hashes."""
    blocks = {
        block[1]: block[0]
        for block in re.finditer(r"^([a-z0-9-]+)==.*(?:\n[ \t]+.*)*", constraints, re.MULTILINE)
    }
    if missing := [name for name in names if name not in blocks]:
        message = f"constraints.txt does not pin {', '.join(missing)}: run make constraints."
        raise StepError(message)
    return "".join(f"{blocks[name]}\n" for name in names)


def versions(pins: str) -> dict[str, str]:
    """Return the version of each package that *pins* names."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", pins, re.MULTILINE))


def installed(pins: str, suite: Suite, steps: Steps) -> Path:
    """Return a directory with the pinned packages installed; it is only to be copied."""
    recipe = f"{RECIPE}{suite.glibc}{suite.python}{CLUTTER}{platform.machine()}{pins}"
    key = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    return cache.entry(f"site-{key}", lambda directory: install(pins, suite, directory, steps))


def install(pins: str, suite: Suite, directory: Path, steps: Steps) -> None:
    """Install the pinned packages as the result of *directory*, without what no program loads."""
    site, requirements = directory / cache.RESULT, directory / "requirements.txt"
    requirements.write_text(pins)
    # A wheel for an older glibc runs on a newer one (PEP 600).
    tags = (f"manylinux_2_{minor}_{platform.machine()}" for minor in range(suite.glibc, 4, -1))
    steps.run(
        f"installing {len(versions(pins))} pinned Python packages",
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"),
        # The image's own Python compiles what it loads; this machine's may be of another version.
        *("--no-deps", "--require-hashes", "--no-compile", "--only-binary", ":all:"),
        *("--implementation", "cp", "--python-version", suite.python),
        *(part for tag in tags for part in ("--platform", tag)),
        *("--target", site, "--requirement", requirements),
    )
    for pattern in CLUTTER:
        for path in tuple(site.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def add_own(sources: tuple[Path, ...], program: str, site: Path) -> None:
    """Add our own packages, and the console script of the last one's command line."""
    for source in sources:
        shutil.copytree(source, site / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    script = site / "bin" / program
    script.parent.mkdir()
    script.write_text(SCRIPT.format(package=sources[-1].name))
    script.chmod(0o755)
