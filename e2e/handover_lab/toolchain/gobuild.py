"""One `go build` that takes minutes: followed package by package, its failures put in words.

What Go prints is the only source of the progress; how much there is to do it is asked beforehand.
"""

import functools
import json
import os
import queue
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from handover_lab.network.namespaces import WITH_US

EVERY: Final = 10.0
"""Seconds between two lines of progress where there is no terminal."""

STALE: Final = "{{if .Stale}}{{.ImportPath}}{{end}}"
ELSEWHERE: Final = "/usr/local/go/bin/go"
"""Where Go's own archive puts it; sudo takes that out of PATH."""

CAUSES: Final = (
    (
        r"requires go >= (\S+) \(running go (\S+?);",
        "Go {0} or newer is needed and this one is {1}: install a newer one (https://go.dev/dl).",
    ),
    (
        r"invalid go version|unknown (?:directive|block type): tool",
        "Go is too old to read e2e/tools/go.mod: install a newer one (https://go.dev/dl).",
    ),
    (
        r"[Nn]o space left on device|disk quota exceeded",
        "The disk is full: a first build takes 6 GB, where `go env GOMODCACHE GOCACHE` say.",
    ),
    (
        r"dial tcp|no such host|i/o timeout|proxyconnect|handshake|lookup disabled|: [45]\d\d ",
        "The Go modules cannot be had: is there a network, and a module proxy in GOPROXY?",
    ),
    (
        r"SECURITY ERROR|checksum mismatch",
        "A Go module is not the one that go.sum pins: do not trust the module proxy in GOPROXY.",
    ),
    (
        r"signal: killed",
        "The compiler was killed, most likely for want of memory: 4 GB are enough.",
    ),
)


class BuildError(RuntimeError):
    """A build failed; the text says what to do about it."""


@dataclass(frozen=True, slots=True)
class Build:
    """Packages of one Go module, and how they are built."""

    module: Path
    packages: tuple[str, ...]
    ldflags: str
    cgo: bool = False
    """Whether a package of them has parts in C."""

    def flags(self) -> list[str]:
        """Compose the flags on which Go's own cache depends."""
        # Without paths in them, what another checkout has compiled is found in Go's cache.
        return ["-trimpath", "-ldflags", self.ldflags]


@dataclass(frozen=True, slots=True)
class Stage:
    """How far a build is."""

    label: str
    done: int = 0
    total: int = 0
    detail: str = ""

    def text(self) -> str:
        """Say it in one line."""
        count = f" {self.done:,} of {self.total:,}" if self.total else ""
        return f"{self.label}{count}" + (f"  {self.detail}" if self.detail else "")


class Meter:
    """Shows stages: one moving line on a terminal, elsewhere a plain one every ten seconds."""

    def __init__(self, console: Console | None = None, every: float = EVERY) -> None:
        self._console = console or Console(highlight=False)
        self._every = every
        self._began = time.monotonic()
        self._next = self._began
        self._stage = Stage("")
        columns = (TimeElapsedColumn(), BarColumn(24), TextColumn("{task.description}"))
        detail = TextColumn("[dim]{task.fields[detail]}")
        self._bar = Progress(*columns, detail, console=self._console, transient=True)
        self._task = self._bar.add_task("", total=None, detail="")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def show(self, stage: Stage) -> None:
        """Show *stage*; a new label at once, more of the same from time to time."""
        if self._console.is_terminal:
            self._bar.update(
                self._task,
                description=replace(stage, detail="").text(),
                completed=stage.done,
                total=stage.total or None,
                detail=shortened(stage.detail),
            )
        elif stage.label != self._stage.label or time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            elapsed = time.monotonic() - self._began
            self._console.print(f"{elapsed:4.0f} s  {stage.text()}", soft_wrap=True)
        self._stage = stage


def build(what: Build, output: Path, meter: Meter) -> None:
    """Build the packages into the directory *output*.

    Raises:
        BuildError: Go is missing or too old, has no modules or no room, or met an error.
    """
    go = find_go()
    stale = list_stale(go, what, meter)
    counted = functools.partial(compiling, stale=stale, output=output, programs=len(what.packages))
    argv = [go, "build", "-v", *what.flags(), "-o", f"{output}/", *what.packages]
    follow(argv, what.module, lambda lines: meter.show(counted(lines)), cgo=what.cgo)


def find_go() -> str:
    """Find the Go command."""
    if go := shutil.which("go") or shutil.which(ELSEWHERE):
        return go
    message = (
        "Go is missing, which builds the parts of Kubernetes: install it (https://go.dev/dl), or"
        " set KUBEBUILDER_ASSETS to a directory that has them."
    )
    raise BuildError(message)


def fetch(module: str, checksum: str, where: Path) -> Path:
    """Fetch the sources of *module*, as path@version, and return their directory.

    Raises:
        BuildError: Go is missing, or the module cannot be had, or is not the one of *checksum*.
    """
    # Without -json first: with it Go does not say what is wrong where it says all else.
    answers = [
        follow([find_go(), "mod", "download", *form, module], where, lambda _: None)
        for form in ([], ["-json"])
    ]
    found = json.loads(answers[-1])
    if found["Sum"] != checksum:
        message = f"{module} has the checksum {found['Sum']}, and {checksum} was expected"
        raise BuildError(message)
    return Path(found["Dir"])


def list_stale(go: str, what: Build, meter: Meter) -> frozenset[str]:
    """Fetch the sources, and list the packages that Go has not compiled before."""
    begin = Stage("fetching the sources")

    def show(lines: Sequence[str]) -> None:
        fetched = [line for line in lines if line.startswith("go: downloading ")]
        detail = fetched[-1].removeprefix("go: downloading ") if fetched else ""
        meter.show(replace(begin, detail=f"{len(fetched)} modules  {detail}" if fetched else ""))

    argv = [go, "list", "-deps", *what.flags(), "-f", STALE, *what.packages]
    return frozenset(follow(argv, what.module, show, cgo=what.cgo).split())


def compiling(lines: Sequence[str], *, stale: frozenset[str], output: Path, programs: int) -> Stage:
    """Read from Go's words so far, and from what it has made, how far it is."""
    compiled = [line for line in lines if line in stale]
    linked = len(list(output.iterdir()))
    if len(compiled) < len(stale) - programs:
        done = f"{linked} linked, " if linked else ""
        latest = compiled[-1] if compiled else ""
        return Stage("compiling packages", len(compiled), len(stale), f"{done}{latest}")
    return Stage("linking programs", linked, programs)


def follow(
    argv: Sequence[str],
    where: Path,
    show: Callable[[Sequence[str]], None],
    *,
    cgo: bool = False,
) -> str:
    """Run Go, show every half second what it has said on the way, and return its output.

    Raises:
        BuildError: it failed.
    """
    process = subprocess.Popen(
        # The kernel kills Go when we are killed: it does not go on compiling for nobody.
        [*WITH_US, *argv],
        cwd=where,
        env=environment(os.environ, cgo=cgo),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    said: list[str] = []
    result: queue.SimpleQueue[str] = queue.SimpleQueue()
    threads = [
        threading.Thread(target=read_lines, args=(process, said)),
        threading.Thread(target=read_output, args=(process, result)),
    ]
    for thread in threads:
        thread.start()
    try:
        while is_running(process):
            show(said)
    finally:
        process.terminate()
        process.wait()
        for thread in threads:
            thread.join()
    if process.returncode:
        raise BuildError(explain(said))
    return result.get()


def environment(outer: Mapping[str, str], *, cgo: bool = False) -> dict[str, str]:
    """Derive Go's environment: C only for *cgo*, no workspace that lies around the project."""
    return {**outer, "CGO_ENABLED": str(int(cgo)), "GOWORK": "off"}


def read_lines(process: subprocess.Popen[str], said: list[str]) -> None:
    """Collect what the process says on the way."""
    assert process.stderr is not None
    with process.stderr as stream:
        said.extend(line.rstrip() for line in stream)


def read_output(process: subprocess.Popen[str], result: "queue.SimpleQueue[str]") -> None:
    """Hand over what it prints, all at once."""
    assert process.stdout is not None
    with process.stdout as stream:
        result.put(stream.read())


def is_running(process: subprocess.Popen[str]) -> bool:
    """Whether it still runs after half a second."""
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        return True
    return False


def explain(said: Sequence[str]) -> str:
    """Say what to do about a failure that Go told in its own words."""
    # What was fetched is no reason for a failure.
    last = [line for line in said if not line.startswith("go: downloading ")][-12:]
    text = "\n".join(last)
    for pattern, sentence in CAUSES:
        if found := re.search(pattern, text):
            return f"{sentence.format(*found.groups())}\n  Go said: {line_of(found)}"
    return "Go could not build. Its last words:\n" + "\n".join(f"  {line}" for line in last)


def line_of(found: re.Match[str]) -> str:
    """Return the line in which *found* was found."""
    begin = found.string.rfind("\n", 0, found.start()) + 1
    return found.string[begin:].partition("\n")[0]


def shortened(detail: str, width: int = 48) -> str:
    """Keep the end of a long detail."""
    return detail if len(detail) <= width else f"…{detail[1 - width :]}"
