"""`make mutants`: work one fault after the other into the decisive modules; which goes unnoticed?

Each fault is tried in a fork of a process that has everything imported but our own programs, so
that it costs the tests' time and not an interpreter's start. A fault that is none, because no
behavior depends on it, is explained in ``tests/mutants.toml``.
"""

import argparse
import ast
import contextlib
import enum
import importlib
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

import pytest
from hypothesis import Phase, settings

from handover_lab import paths
from handover_lab.mutants.mutation import Change, changes

ROOT: Final = paths.ROOT
EXPLAINED: Final = ROOT / "tests" / "mutants.toml"
REPORT: Final = ROOT / "build" / "mutants.json"
BAR: Final = 90.0
"""Per cent of the faults that the tests must notice, in each module."""
OURS: Final = ("handover_nodeagent", "handover_operator")

_AGENT: Final = "tests/nodeagent"
_OPERATOR: Final = "tests/operator"
TESTS: Final[Mapping[str, Sequence[str]]] = {
    "handover_nodeagent.fsm.step": (
        f"{_AGENT}/fsm/test_step.py",
        f"{_AGENT}/fsm/test_step_corners.py",
        f"{_AGENT}/fsm/test_playbooks.py",
    ),
    "handover_nodeagent.fsm.table": (
        f"{_AGENT}/fsm/test_step.py",
        f"{_AGENT}/fsm/test_step_corners.py",
        f"{_AGENT}/fsm/test_playbooks.py",
    ),
    "handover_nodeagent.fsm.restart": (f"{_AGENT}/fsm/test_restart.py",),
    "handover_nodeagent.kernel.bpf": (
        f"{_AGENT}/kernel/test_bpf.py",
        f"{_AGENT}/sniff/test_packet_filter.py",
    ),
    "handover_nodeagent.kernel.netlink.rtmsg": (f"{_AGENT}/kernel/netlink/test_rtmsg.py",),
    "handover_nodeagent.sniff.ring_blocks": (f"{_AGENT}/sniff/test_ring_blocks.py",),
    "handover_nodeagent.sniff.own_frames": (f"{_AGENT}/sniff/test_own_frames.py",),
    **{
        f"handover_nodeagent.hold.{name}": (f"{_AGENT}/hold/test_{name}.py",)
        for name in ("asked", "bounds", "pacing", "packet_filter", "stall")
    },
    "handover_nodeagent.reconcile.cutover_figures": (
        f"{_AGENT}/reconcile/test_cutover_figures.py",
    ),
    "handover_nodeagent.network.desired": (f"{_AGENT}/network/test_desired.py",),
    "handover_nodeagent.network.plan": (f"{_AGENT}/network/test_plan.py",),
    "handover_nodeagent.network.placement": (f"{_AGENT}/network/test_placement.py",),
    "handover_nodeagent.peers.trust": (
        f"{_AGENT}/peers/test_trust.py",
        f"{_AGENT}/peers/test_lossy_path.py",
    ),
    "handover_nodeagent.peers.messages": (f"{_AGENT}/peers/test_messages.py",),
    "handover_nodeagent.peers.relations": (
        f"{_AGENT}/peers/test_relations.py",
        f"{_AGENT}/peers/test_trust.py",
    ),
    "handover_nodeagent.peers.repeats": (f"{_AGENT}/peers/test_repeats.py",),
    "handover_nodeagent.peers.statements": (f"{_AGENT}/peers/test_statements.py",),
    "handover_nodeagent.peers.hellos": (f"{_AGENT}/peers/test_hellos.py",),
    "handover_nodeagent.peers.mutes": (f"{_AGENT}/peers/test_mutes.py",),
    "handover_nodeagent.peers.clocks": (f"{_AGENT}/peers/test_clocks.py",),
    "handover_nodeagent.sniff.verdict": (f"{_AGENT}/sniff/test_verdict.py",),
    # The million frames of test_fuzz.py never meet the filter.
    "handover_nodeagent.sniff.packet_filter": (
        f"{_AGENT}/sniff/test_packet_filter.py",
        *(
            f"{_AGENT}/sniff/test_fuzz.py::test_{name}"
            for name in (
                "the_candidates_are_every_arp_rarp_and_na_of_anybody",
                "the_filter_of_a_flooded_reader_passes_a_rarp_alone",
                "nothing_passes_the_filter_of_a_muted_socket",
                "the_filter_passes_what_would_be_accepted_and_nothing_else",
            )
        ),
    ),
    "handover_operator.roles.rules": (
        f"{_OPERATOR}/roles/test_rules.py",
        f"{_OPERATOR}/roles/test_outcome.py",
        f"{_OPERATOR}/roles/test_resolver.py",
    ),
    "handover_operator.roles.resolver": (
        f"{_OPERATOR}/roles/test_resolver_cases.py",
        f"{_OPERATOR}/roles/test_outcome.py",
        f"{_OPERATOR}/roles/test_rules.py",
        f"{_OPERATOR}/roles/test_resolver.py",
    ),
    "handover_operator.roles.peers": (f"{_OPERATOR}/roles/test_peers.py",),
    "handover_operator.roles.summaries": (
        f"{_OPERATOR}/roles/test_resolver_cases.py",
        f"{_OPERATOR}/roles/test_outcome.py",
        f"{_OPERATOR}/roles/test_rules.py",
        f"{_OPERATOR}/roles/test_resolver.py",
    ),
    "handover_operator.roles.outcome": (
        f"{_OPERATOR}/roles/test_outcome.py",
        f"{_OPERATOR}/roles/test_rules.py",
        f"{_OPERATOR}/roles/test_resolver.py",
    ),
}
"""The quick ones first: most faults are noticed before the slow ones begin."""


@dataclass(frozen=True, slots=True)
class Module:
    """One module, its faults and its tests."""

    name: str
    path: Path
    tests: Sequence[str]
    members: Mapping[str, type[enum.Enum]]

    @classmethod
    def find(cls, name: str, tests: Sequence[str]) -> "Module":
        """Import it once, to know its enumerations; what was imported of ours is forgotten."""
        module = importlib.import_module(name)
        members = {
            key: value
            for key, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, enum.Enum)
        }
        assert module.__file__ is not None
        forget()
        return cls(name, Path(module.__file__), tests, members)

    def read(self) -> tuple[ast.Module, list[Change]]:
        """Return the module's tree, and the faults that may be worked into it."""
        tree = ast.parse(self.path.read_text())
        return tree, changes(tree, self.members)

    def faulty(self, number: int | None) -> CodeType:
        """Compile it with one fault, or as it is."""
        tree, found = self.read()
        if number is not None:
            found[number].make()
            ast.fix_missing_locations(tree)
        return compile(tree, str(self.path), "exec")


@dataclass
class Score:
    """What the tests of one module noticed."""

    module: str
    faults: int = 0
    noticed: int = 0
    explained: int = 0
    unnoticed: list[str] = field(default_factory=list)

    @property
    def percent(self) -> float:
        """The share of the faults that are any."""
        counted = self.faults - self.explained
        return 100 * self.noticed / counted if counted else 100.0


class Faulty(SourceFileLoader):
    """Loads code that was compiled already."""

    def __init__(self, name: str, path: str, code: CodeType) -> None:
        super().__init__(name, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        """Return it."""
        assert fullname == self.name
        return self._code


class Finder:
    """Finds one module before anybody else does."""

    def __init__(self, loader: Faulty) -> None:
        self._loader = loader

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return its spec."""
        del path, target
        if name != self._loader.name:
            return None
        return importlib.util.spec_from_file_location(name, self._loader.path, loader=self._loader)


def forget() -> None:
    """Let our programs be imported afresh."""
    for name in list(sys.modules):
        if name.split(".")[0] in OURS:
            del sys.modules[name]


def preload() -> None:
    """Import what tests import, but for our programs."""
    for name in (
        "handover_api.workloadendpoint",
        "handover_lab.cluster.controlplane",
        "pytest_asyncio",
    ):
        importlib.import_module(name)
    # Deterministic, and no time for the smallest example: one is enough.
    settings.register_profile(
        "mutants",
        database=None,
        derandomize=True,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
    )
    settings.load_profile("mutants")
    forget()


def attempt(module: Module, number: int | None) -> int:
    """Start the tests with one fault in a fork; return its pid."""
    if pid := os.fork():
        return pid
    status = 3
    with contextlib.suppress(BaseException):
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        code = module.faulty(number)
        finder: Any = Finder(Faulty(module.name, str(module.path), code))
        sys.meta_path.insert(0, finder)
        arguments = [
            "-x",
            "-q",
            "--no-header",
            "--tb=no",
            "--assert=plain",
            "-p",
            "no:cacheprovider",
        ]
        status = int(pytest.main([*arguments, *module.tests]))
    os._exit(status)


def attempts(module: Module, numbers: Sequence[int], jobs: int, limit: float) -> Iterator[int]:
    """Try faults, some at once; yield those that nobody noticed within *limit* seconds each."""
    left = list(reversed(numbers))
    running: dict[int, tuple[int, float]] = {}
    while left or running:
        while left and len(running) < jobs:
            number = left.pop()
            running[attempt(module, number)] = number, time.monotonic() + limit
        for pid, (number, until) in list(running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del running[pid]
                if os.waitstatus_to_exitcode(status) == 0:
                    yield number
            elif time.monotonic() > until:
                # A loop without an end is noticed, too.
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def measure(module: Module, explained: Sequence[Mapping[str, str]], jobs: int) -> Score:
    """Try all faults of one module, and print those that nobody noticed."""
    began = time.monotonic()
    if list(attempts(module, [], 1, 0)) or os.waitpid(attempt(module, None), 0)[1]:
        message = f"{module.name}: its tests fail without any fault"
        raise SystemExit(message)
    limit = 10 + 10 * (time.monotonic() - began)
    _, found = module.read()
    score = Score(module.name, len(found))
    known = {(one["where"], one["change"]) for one in explained if one["module"] == module.name}
    unnoticed = set(attempts(module, range(len(found)), jobs, limit))
    survivors = {(found[number].where, found[number].text) for number in unnoticed}
    for number in sorted(unnoticed):
        one = found[number]
        if (one.where, one.text) in known:
            score.explained += 1
            continue
        place = f"{module.path.relative_to(ROOT)}:{one.line}"
        score.unnoticed.append(f"{place}: in {one.where}: {one.text}")
        print(score.unnoticed[-1], flush=True)
    for where, text in sorted(known - survivors):
        print(f"{module.name}: explained, but noticed or gone: in {where}: {text}", flush=True)
    score.noticed = len(found) - len(unnoticed)
    return score


def main() -> int:
    """Measure all modules, or those whose names end as said."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("modules", nargs="*", help="such as fsm or sniff.packet_filter")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    asked = tuple(f".{one}" for one in arguments.modules)
    for one in asked:
        if not any(name.endswith(one) for name in TESTS):
            parser.error(f"no module ends with {one}; there are {', '.join(TESTS)}")
    os.chdir(ROOT)
    sys.dont_write_bytecode = True
    preload()
    explained = tomllib.loads(EXPLAINED.read_text()).get("explained", [])
    scores = []
    for name, tests in TESTS.items():
        if asked and not name.endswith(asked):
            continue
        scores.append(measure(Module.find(name, tests), explained, arguments.jobs))
        score = scores[-1]
        print(
            f"{name:<34}{score.faults:>5} faults {score.noticed:>5} noticed"
            f" {score.explained:>4} explained {score.percent:>6.1f} %",
            flush=True,
        )
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps([vars(score) for score in scores], indent=2) + "\n")
    return 0 if all(score.percent >= BAR for score in scores) else 1
