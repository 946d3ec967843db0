"""The two images, made without a registry: ``python -m handover_lab.images``.

Each is a base (imagebase), the pinned Python packages (wheels) and a Containerfile. An image is
made anew only where something that goes into it has changed.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from handover_api import __version__
from handover_lab import paths
from handover_lab.images import base as imagebase
from handover_lab.images import buildah, wheels
from handover_lab.images.base import SUITES, Base, Suite
from handover_lab.toolchain import cache
from handover_lab.toolchain.steps import StepError, Steps

ROOT: Final = paths.ROOT
OUTPUT: Final = ROOT / "build" / "images"
SUMMARY: Final = ROOT / "build" / "images.json"
MIB: Final = 1 << 20
NEEDS: Final = {"buildah": "buildah", "mmdebstrap": "mmdebstrap", "dpkg-deb": "dpkg"}


@dataclass(frozen=True, slots=True)
class Component:
    """One program and its image."""

    extra: str
    """The extra of pyproject.toml, and the folder of its sources."""

    @property
    def name(self) -> str:
        """The name of the program and of its image."""
        return f"handover-{self.extra}"

    @property
    def archive(self) -> Path:
        """Where the image is written, in docker-archive format."""
        return OUTPUT / f"{self.name}.tar"

    @property
    def containerfile(self) -> Path:
        """How the image is put together."""
        return ROOT / self.extra / "Containerfile"

    @property
    def sources(self) -> tuple[Path, ...]:
        """Our own packages that go in; the last one has the command line."""
        return (ROOT / "crds" / "handover_api", ROOT / self.extra / f"handover_{self.extra}")

    @property
    def pins(self) -> str:
        """The packages of others that go in."""
        constraints = (ROOT / "constraints.txt").read_text()
        return wheels.pinned(wheels.closure(self.extra), constraints)


COMPONENTS: Final = (Component("operator"), Component("nodeagent"))
RECIPE: Final = tuple(
    Path(name) for name in (__file__, buildah.__file__, imagebase.__file__, wheels.__file__) if name
)


@dataclass(frozen=True, slots=True)
class Image:
    """What build/images.json tells of one image."""

    name: str
    archive: str
    size_mib: float
    """Unpacked, all layers."""

    digest: str
    """Of its configuration: what container runtimes call the image's ID."""

    inputs: str
    """A digest of everything that went in."""

    packages: Mapping[str, Mapping[str, str]]


def archives() -> tuple[Path, ...]:
    """Return where the images are once they are built."""
    return tuple(component.archive for component in COMPONENTS)


def main(argv: list[str] | None = None) -> int:
    """Build the two images into build/images, where their inputs have changed."""
    parser = argparse.ArgumentParser(prog="handover_lab.images", description=main.__doc__)
    parser.add_argument("--base", default="", help="a public base image instead of our own")
    parser.add_argument(
        "--suite",
        choices=SUITES,
        default=imagebase.NEWEST.name,
        help="the release of Debian; of a base that is given, the one with the same Python",
    )
    parser.add_argument("--fresh", action="store_true", help="make our base anew, with new updates")
    arguments = parser.parse_args(argv)
    try:
        build_all(arguments.base, SUITES[arguments.suite], fresh=arguments.fresh)
    except StepError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0


def build_all(reference: str = "", suite: Suite = imagebase.NEWEST, *, fresh: bool = False) -> None:
    """Bring both images and the summary up to date; raises StepError."""
    check_machine()
    # The images' files are readable by their user, whatever umask the builder has.
    os.umask(0o022)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    # The same inputs give the same images.
    # 1980, the earliest time that a zip file, and so a wheel, can hold.
    environment = {"SOURCE_DATE_EPOCH": "315532800", "PYTHONHASHSEED": "0"}
    steps = Steps(OUTPUT / "build.log", environment=environment)
    with cache.alone(OUTPUT / ".lock"):
        base = Base(reference, {}) if reference else imagebase.prepare(steps, suite, fresh=fresh)
        known = read_summary()
        images = []
        for component in COMPONENTS:
            inputs = fingerprint(component, base, suite)
            image = known.get(f"{component.name}:{__version__}")
            if image is None or image.inputs != inputs or not component.archive.exists():
                site = wheels.installed(component.pins, suite, steps)
                image = build(component, base, inputs, site, steps)
            print(f"{image.name}  {image.size_mib} MiB  {image.archive}", flush=True)
            images.append(image)
        SUMMARY.write_text(json.dumps([asdict(image) for image in images], indent=2) + "\n")


def check_machine() -> None:
    """Say what this machine lacks to build images; raises StepError."""
    for program, package in NEEDS.items():
        if shutil.which(program) is None:
            message = f"The images need {program}: run apt-get install {package}."
            raise StepError(message)
    if os.geteuid() != 0:
        message = "Only root can build the images: run sudo make images."
        raise StepError(message)


def read_summary() -> dict[str, Image]:
    """Return what the last build wrote; nothing where that is not readable."""
    try:
        return {each["name"]: Image(**each) for each in json.loads(SUMMARY.read_text())}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def fingerprint(component: Component, base: Base, suite: Suite) -> str:
    """Digest everything that goes into an image."""
    digest = hashlib.sha256(f"{base}{suite}{component.pins}{__version__}".encode())
    folders = (path for folder in component.sources for path in folder.rglob("*"))
    sources = (path for path in folders if path.is_file() and "__pycache__" not in path.parts)
    for path in (*sorted(sources), component.containerfile, *RECIPE):
        digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_mode}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def build(component: Component, base: Base, inputs: str, packages: Path, steps: Steps) -> Image:
    """Build one image; the old archive stays until the new one is complete."""
    directory = OUTPUT / f"{component.name}.scratch"
    name = f"{component.name}:{__version__}"
    with cache.emptied(directory):
        site = directory / "context" / "site"
        site.parent.mkdir()
        shutil.copytree(packages, site, symlinks=True)
        wheels.add_own(component.sources, component.name, site)
        archive = directory / component.archive.name
        buildah.build(
            steps,
            f"building {name}",
            component.containerfile,
            site.parent,
            f"docker-archive:{archive}:{name}",
            {"BASE": base.reference, "VERSION": __version__},
        )
        size, digest = measure(archive)
        archive.rename(component.archive)
    holds = {"debian": dict(base.packages), "python": wheels.versions(component.pins)}
    return Image(name, str(component.archive), size, digest, inputs, holds)


def measure(archive: Path) -> tuple[float, str]:
    """Return the unpacked size in MiB and the ID of an image."""
    with tarfile.open(archive) as content:
        layers = sum(member.size for member in content if member.name.endswith(".tar"))
        manifest = content.extractfile("manifest.json")
        assert manifest is not None
        (image,) = json.load(manifest)
    return round(layers / MIB, 1), f"sha256:{image['Config'].removesuffix('.json')}"
