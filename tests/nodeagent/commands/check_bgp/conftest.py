"""A node beside a router, on which a speaker runs with a configuration of the test's own."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.nodeagent import namespaces

from handover_api.configuration import Settings
from handover_lab.network.bird import Speaker
from handover_lab.network.namespaces import Namespace, connect
from handover_lab.testing.speaking import PORT, Kind, Running
from handover_nodeagent.commands.check.findings import Finding, Verdict
from handover_nodeagent.commands.check_bgp import speakers

Edit = Callable[[str], str]


@dataclass
class Pair:
    """A router and a node on one segment; who speaks ends with the test."""

    router: Namespace
    node: Namespace
    members: list[Speaker]
    directory: Path
    cleanup: ExitStack = field(default_factory=ExitStack)

    def start(self, kind: Kind, edit: Edit, edit_router: Edit | None = None) -> list[Running]:
        """Start *kind* at both, with the node's configuration edited; None: no router speaks."""
        running = []
        places = [(self.node, self.members[1], edit)]
        if edit_router:
            places.insert(0, (self.router, self.members[0], edit_router))
        for place, member, edited in places:
            text = edited(kind.configuration(member, self.members))
            running.append(kind.start(place, member, text, self.directory))
            self.cleanup.callback(running[-1].stop)
        return running

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Let the test be on the node for a while."""
        with namespaces.restored():
            namespace = os.open(f"/proc/{self.node.holder.pid}/ns/net", os.O_RDONLY)
            try:
                namespaces.enter(namespace)
                yield
            finally:
                os.close(namespace)

    def check(self, settings: Settings, interface: str = "handover-probe") -> list[Finding]:
        """Return what the command finds on the node that is not as it should be."""
        with self.inside():
            found = list(speakers.check(speakers.discover(), settings, interface))
        assert (
            self.node.run("ip route show proto 88; ip link show type veth | grep probe || true")
            == ""
        )
        return [one for one in found if one.verdict is not Verdict.OK]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A router and a node, with a port of a guest's."""
    namespaces.needs_root()
    with ExitStack() as cleanup:
        router, node = Namespace.make("router"), Namespace.make("node")
        for namespace in (router, node):
            cleanup.callback(namespace.end)
        members = connect(router, [node])
        router.run(PORT)
        # FRR's own user must be able to reach it, and its sockets' names be short.
        directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="hbgp-")))
        directory.chmod(0o755)
        it = Pair(router, node, list(members), directory)
        cleanup.push(it.cleanup)
        yield it


def replaced(old: str, new: str) -> Edit:
    """Return an edit that changes every *old*, of which there is one at least."""

    def edit(text: str) -> str:
        assert old in text, old
        return text.replace(old, new)

    return edit
