"""The parts of Kubernetes that the lab runs: where each comes from, and that it fits.

e2e/tools/go.mod pins them, e2e/tools/helm3/go.mod the older Helm, whose program has the same name,
and e2e/tools/flannel/go.mod the CNI daemon, which is built of older Kubernetes modules. A part is
taken from KUBEBUILDER_ASSETS or PATH where it is there in a fitting version, else from the user's
cache, which `python -m handover_lab.toolchain.tools` fills: once for all clones with the same pins.
In the cache is only what is whole: a program gets its name there by one rename.
"""

import argparse
import contextlib
import fcntl
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from handover_lab import paths
from handover_lab.toolchain import gobuild
from handover_lab.toolchain.gobuild import Build, BuildError, Meter, Stage

MODULE: Final = paths.SOURCES / "tools"

Version = tuple[int, ...]


class ToolsError(RuntimeError):
    """A part is not there; the text says what to do about it."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program, the Go package it is built from, and which other versions of it would do."""

    name: str
    package: str
    module: str
    same: int
    """So many leading numbers of the version must be those of the pinned one."""
    oldest: Version = ()
    ask: tuple[str, ...] = ("--version",)
    folder: str = ""
    """Where below e2e/tools the go.mod is that pins it."""
    cgo: bool = False
    """Whether it has parts in C."""

    @property
    def built(self) -> str:
        """What Go calls the program: the last word of the package that is no version."""
        return next(w for w in reversed(self.package.split("/")) if not re.fullmatch(r"v\d+", w))


def kubernetes(name: str, *ask: str) -> Tool:
    """Describe a part of Kubernetes itself, which fits in the same minor version."""
    package = f"k8s.io/kubernetes/cmd/{name}"
    return Tool(name, package, "k8s.io/kubernetes", same=2, ask=ask or ("--version",))


ETCD: Final = "go.etcd.io/etcd/server/v3"
HELM: Final = "helm.sh/helm/v4"
HELM3: Final = "helm.sh/helm/v3"
FLANNEL: Final = "github.com/flannel-io/flannel"
TOOLS: Final = {
    tool.name: tool
    for tool in (
        Tool("etcd", ETCD, ETCD, same=1, oldest=(3, 6)),
        kubernetes("kube-apiserver"),
        kubernetes("kube-controller-manager"),
        kubernetes("kube-scheduler"),
        kubernetes("kubelet"),
        kubernetes("kubectl", "version", "--client"),
        Tool("helm", f"{HELM}/cmd/helm", HELM, same=1, ask=("version", "--short")),
        Tool(
            *("helm3", f"{HELM3}/cmd/helm", HELM3),
            same=1,
            ask=("version", "--short"),
            folder="helm3",
        ),
        # Its UDP backend, which nobody here uses, has its proxy in C.
        Tool("flanneld", FLANNEL, FLANNEL, same=2, folder="flannel", cgo=True),
    )
}


@dataclass(frozen=True, slots=True)
class Found:
    """Where a program is, and by which way it was found."""

    path: Path
    source: str
    version: Version


def locate(name: str) -> Path:
    """Find the program *name*.

    Raises:
        ToolsError: it is nowhere in a fitting version.
    """
    tool = TOOLS[name]
    if found := find(tool):
        return found.path
    others = ", ".join(f"{other.path} is {dotted(other.version)}" for other in installed(tool))
    message = (
        f"{name} {dotted(pinned(tool))} is not there{f' ({others})' if others else ''}:"
        " `make tools` builds it, or KUBEBUILDER_ASSETS names a directory that has it."
    )
    raise ToolsError(message)


def find(tool: Tool) -> Found | None:
    """Find *tool* in a fitting version."""
    fitting = (found for found in installed(tool) if fits(tool, found.version))
    return next(fitting, None) or in_cache(tool)


def installed(tool: Tool) -> Iterator[Found]:
    """List where the machine has *tool*, in any version."""
    for source in ("KUBEBUILDER_ASSETS", "PATH"):
        directories = os.environ.get(source, "")
        if directories and (path := shutil.which(tool.name, path=directories)):
            yield Found(Path(path), source, ask_version(path, tool.ask))


def in_cache(tool: Tool) -> Found | None:
    """Find *tool* in the cache."""
    path = cache(tool.folder) / tool.name
    return Found(path, "cache", pinned(tool)) if path.exists() else None


def fits(tool: Tool, version: Version) -> bool:
    """Whether *version* of *tool* goes with all the pinned others."""
    return version[: tool.same] == pinned(tool)[: tool.same] and version >= tool.oldest


# Each answer costs the start of a program of up to 100 MB.
@functools.cache
def ask_version(path: str, ask: tuple[str, ...]) -> Version:
    """Ask a program for its version; one that gives no answer has none."""
    try:
        answer = subprocess.run(
            [path, *ask],
            check=False,
            stdout=subprocess.PIPE,
            # Where flannel's daemon says it.
            stderr=subprocess.STDOUT,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return version_in(answer.stdout)


def version_in(text: str) -> Version:
    """Read the first version in *text*."""
    found = re.search(r"\bv?(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(number) for number in found.groups("0")) if found else ()


def dotted(version: Version) -> str:
    """Write a version as people do."""
    return ".".join(map(str, version)) or "of an unknown version"


def pinned(tool: Tool) -> Version:
    """Return the version that go.mod pins."""
    return version_in(pins(tool.folder)[tool.module])


@functools.cache
def pins(folder: str = "") -> Mapping[str, str]:
    """Read the version of every module from go.mod's requirements."""
    text = (MODULE / folder / "go.mod").read_text()
    return dict(re.findall(r"^\t(?:require )?(\S+) (v\S+)(?: // indirect)?$", text, re.MULTILINE))


def ldflags(folder: str = "") -> str:
    """Compose the linker's flags; without the versions Kubernetes calls itself v0.0.0."""
    versions = pins(folder)
    kubernetes = versions.get("k8s.io/kubernetes") or versions["k8s.io/api"].replace("v0", "v1", 1)
    major, minor, *_ = version_in(kubernetes)
    stamps = {
        "k8s.io/component-base/version.gitVersion": kubernetes,
        "k8s.io/component-base/version.gitMajor": major,
        "k8s.io/component-base/version.gitMinor": minor,
    }
    if version := versions.get(HELM):
        stamps[f"{HELM}/internal/version.version"] = version
    if version := versions.get(HELM3):
        stamps[f"{HELM3}/internal/version.version"] = version
        # Else `helm template` takes the cluster for one of Kubernetes 1.20.
        stamps[f"{HELM3}/pkg/chartutil.k8sVersionMajor"] = major
        stamps[f"{HELM3}/pkg/chartutil.k8sVersionMinor"] = minor
    if version := versions.get(FLANNEL):
        stamps[f"{FLANNEL}/pkg/version.Version"] = version
    return " ".join(["-s -w", *(f"-X {name}={value}" for name, value in stamps.items())])


def cache(folder: str = "") -> Path:
    """Return the directory for what is built from these pins in this way for this machine."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    key = hashlib.sha256(f"{platform.machine()} {ldflags(folder)}".encode())
    for name in ("go.mod", "go.sum"):
        key.update((MODULE / folder / name).read_bytes())
    return Path(home) / "handover" / "tools" / key.hexdigest()[:16]


def build(missing: list[Tool], meter: Meter) -> None:
    """Build the *missing* tools into the cache, unless another build has done so meanwhile.

    Raises:
        BuildError: Go could not.
        OSError: the cache cannot be written.
    """
    for folder in sorted({tool.folder for tool in missing}):
        build_pinned(folder, [tool for tool in missing if tool.folder == folder], meter)


def build_pinned(folder: str, missing: list[Tool], meter: Meter) -> None:
    """Build what one go.mod pins."""
    directory = cache(folder)
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory / "lock", meter):
        # Whoever left it was killed: the lock is ours.
        for rest in directory.glob("partial-*"):
            shutil.rmtree(rest)
        # Another build may have made them while we waited for the lock.
        missing = [tool for tool in missing if not in_cache(tool)]
        if not missing:
            return
        with tempfile.TemporaryDirectory(dir=directory, prefix="partial-") as partial:
            packages = tuple(tool.package for tool in missing)
            cgo = any(tool.cgo for tool in missing)
            what = Build(MODULE / folder, packages, ldflags(folder), cgo)
            gobuild.build(what, Path(partial), meter)
            for tool in missing:
                move_in(Path(partial) / tool.built, directory / tool.name)


def move_in(made: Path, final: Path) -> None:
    """Give a program its name in the cache; it is on the disk before it is called so."""
    with made.open("rb") as file:
        os.fsync(file.fileno())
    made.rename(final)


@contextlib.contextmanager
def locked(path: Path, meter: Meter) -> Iterator[None]:
    """Hold the lock on *path*; its holder's end frees it, whatever ends it."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            meter.show(Stage("waiting for another build of the same"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Build the parts of Kubernetes that are missing; say where all of them are."""
    parser = argparse.ArgumentParser(
        prog="python -m handover_lab.toolchain.tools", description=main.__doc__
    )
    parser.add_argument("--print", action="store_true", help="only say where they are")
    parser.add_argument("name", nargs="*", help="these alone, and not all of them")
    arguments = parser.parse_args()
    if unknown := set(arguments.name) - TOOLS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    wanted = [TOOLS[name] for name in arguments.name] or list(TOOLS.values())
    missing = [tool for tool in wanted if not find(tool)]
    if missing and not arguments.print:
        print(f"building {', '.join(tool.name for tool in missing)}", flush=True)
        print(
            f"  from source into {cache().parent}; the first time it takes about ten minutes",
            flush=True,
        )
        try:
            with Meter() as meter:
                build(missing, meter)
        except (BuildError, OSError) as error:
            print(error, file=sys.stderr, flush=True)
            return 1
        except KeyboardInterrupt:
            print("stopped; the next build goes on from what Go has compiled", file=sys.stderr)
            return 130
    found = {tool.name: find(tool) for tool in wanted}
    for name, place in found.items():
        print(f"{name:<24} {describe(place)}")
    return 0 if all(found.values()) else 1


def describe(found: Found | None) -> str:
    """Say where a program is."""
    if found is None:
        return "missing: `make tools` builds it"
    return f"{dotted(found.version):<8} {found.source:<18} {found.path}"


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
