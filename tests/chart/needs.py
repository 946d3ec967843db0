"""A program that begins without any right, and is given what its log says that it lacks."""

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.chart.conftest import Kubectl, Manifest

from handover_lab.cluster import operator_process
from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.cluster.operator_process import Process
from handover_lab.docs.chart import CRDS

NEEDY = "needy"
ROOM = "needy"
PATIENCE = 60.0
MOMENT = 0.3
"""Seconds for what is asked for together."""
REFUSAL = re.compile(
    r'User \\*"needy\\*" cannot (\w+) resource \\*"([a-z/]+)\\*" in API group \\*"([a-z0-9.]*)\\*"'
)

Right = tuple[str, str, str]


class Needy:
    """An operator, and the rights that it was given one by one."""

    def __init__(self, api_server: ControlPlane, kubectl: Kubectl, room: Path) -> None:
        self.rights: set[Right] = set()
        self.log = room / "log"
        self._kubectl = kubectl
        self._process: Process | None = None
        self._read = self._turn = 0
        configuration = room / "configuration.yaml"
        configuration.write_text("probeInterval: 50ms\n")
        self._environment = {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(api_server.credentials(NEEDY)),
            "HANDOVER_CONFIGURATION_FILE": str(configuration),
            "HANDOVER_LISTEN_ADDRESS": "127.0.0.1",
            "HANDOVER_PORT": "0",
            "HANDOVER_LEADER_ELECTION": "true",
            "HANDOVER_NAMESPACE": ROOM,
            # Started again, it still holds the Lease.
            "HANDOVER_POD_NAME": NEEDY,
            "HANDOVER_POD_UID": NEEDY,
        }

    def until(self, is_done: Callable[[], object]) -> None:
        """Wait, and give what is asked for meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while not is_done():
            if time.monotonic() > deadline:
                pytest.fail(f"never done; the log ends with {self.log.read_text()[-2000:]}")
            self._run()
            self._give()
            time.sleep(0.05)

    def _run(self) -> None:
        if self._process is None or self._process.poll() is not None:
            # A new one for each right, so that one with all its imports done is worth having.
            self._process = operator_process.Fork(self._environment, self.log)

    def _give(self) -> None:
        asked = self._asked()
        if asked - self.rights:
            # Some is asked for once only, right after something was made: a program that ends
            # before that never comes back to it.
            time.sleep(MOMENT)
            self.rights |= asked | self._asked()
            self.write_role()
            # Its next attempt may be far away.
            self.stop()

    def _asked(self) -> set[Right]:
        """Return what the log has come to say that it lacks."""
        text = self.log.read_text() if self.log.exists() else ""
        said, self._read = text[self._read :], text.rfind("\n") + 1
        return {(group, resource, verb) for verb, resource, group in REFUSAL.findall(said)}

    def write_role(self) -> None:
        """Make the role that holds all that was given; it is in force when this returns."""
        self._turn += 1
        mark = f"/turn-{self._turn}"
        rules = [
            {"apiGroups": [group], "resources": [resource], "verbs": [verb]}
            for group, resource, verb in sorted(self.rights)
        ]
        turn = {"nonResourceURLs": [mark], "verbs": ["get"]}
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole"}
        self._kubectl(
            *("apply", "--filename=-"),
            given=json.dumps({**role, "metadata": {"name": NEEDY}, "rules": [*rules, turn]}),
        )
        while "yes" not in self._kubectl("auth", "can-i", "get", mark, user=NEEDY):
            time.sleep(0.02)

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


@contextlib.contextmanager
def without_rights(api_server: ControlPlane, kubectl: Kubectl, room: Path) -> Iterator[Needy]:
    """Have an operator without rights, and a namespace, in a cluster with our kinds."""
    kubectl("apply", "--server-side", "--force-conflicts", f"--filename={CRDS}")
    kubectl("create", "namespace", ROOM)
    needy = Needy(api_server, kubectl, room)
    kubectl("create", "clusterrolebinding", NEEDY, f"--clusterrole={NEEDY}", f"--user={NEEDY}")
    needy.write_role()
    yield needy
    needy.stop()
    kubectl("delete", "lm,wep", "--all", "-n", ROOM)
    kubectl("delete", "hc", "default", "--ignore-not-found")
    kubectl("delete", f"clusterrolebinding/{NEEDY}", f"clusterrole/{NEEDY}")


def rights(release: dict[str, Manifest], *roles: str) -> set[Right]:
    """Return what roles give, whatever the names that bound them."""
    return {
        (group, resource, verb)
        for role in roles
        for rule in release[role]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
