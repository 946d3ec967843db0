"""The command as a person types it: where nobody speaks, or can be asked, and its help."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.nodeagent.node import Node
from typer.testing import CliRunner

from handover_api.configuration import Advertise
from handover_nodeagent import cli
from handover_nodeagent.commands.check.findings import Verdict
from handover_nodeagent.commands.check_bgp import speakers

PROGRAM = (sys.executable, "-m", "handover_nodeagent")
AGENTS = "with `advertise: agents` the agents tell each other, and no speaker is needed"


def run(node: Node, directory: Path, *options: str, **environment: str) -> tuple[int, str]:
    """Run it on the node; return its exit status and what it says."""
    argv = [*PROGRAM, "check-bgp", "--state-directory", str(directory), *options]
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, env=os.environ | environment
    )
    assert node.lines("ip route show proto 88") == []
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("advertise", "verdict"),
    [
        (Advertise.AGENTS, Verdict.OK),
        (Advertise.BGP, Verdict.FAIL),
        (Advertise.NONE, Verdict.WARN),
    ],
)
def test_where_nobody_speaks_one_sentence_says_what_that_means(
    advertise: Advertise, verdict: Verdict
) -> None:
    found = speakers.nobody(advertise)
    assert found.verdict is verdict
    assert found.message.startswith("no BIRD and no FRR is to be seen")
    assert AGENTS in found.message + found.remedy


@pytest.mark.root
def test_where_nobody_speaks_it_says_so_and_fails_by_what_is_configured(
    node: Node, tmp_path: Path
) -> None:
    status, said = run(node, tmp_path, HANDOVER_ADVERTISE="bgp")
    assert (status, "fail  BGP: no BIRD and no FRR" in said) == (1, True)
    status, said = run(node, tmp_path, "-o", "json", HANDOVER_ADVERTISE="agents")
    assert status == 0
    assert [one["verdict"] for one in json.loads(said) if one["check"] == "BGP"] == ["ok"]


@pytest.mark.root
def test_a_socket_that_cannot_be_reached_is_named(node: Node, tmp_path: Path) -> None:
    """As in a pod, which has the node's network and none of its files."""
    with socket.socket(socket.AF_UNIX) as bird:
        path = tmp_path / "bird.ctl"
        bird.bind(str(path))
        bird.listen()
        path.unlink()
        status, said = run(node, tmp_path)

    assert status == 1
    assert f"a speaker runs here, but cannot be asked at {path}: No such file" in said
    assert "hostPath" in said


@pytest.mark.root
def test_a_bird_of_version_1_is_told_apart(node: Node, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bird:
        path = tmp_path / "bird.ctl"
        bird.bind(str(path))
        bird.listen()
        argv = [*PROGRAM, "check-bgp", "--bird-socket", str(path), "-o", "json"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as program:
            connection, _ = bird.accept()
            connection.sendall(b"0001 BIRD 1.6.8 ready.\n")
            assert connection.recv(100) == b"restrict\n"
            connection.sendall(b"0016 Access restricted\n")
            said, _ = program.communicate(timeout=30)
            connection.close()

    assert "BIRD 1.6.8 cannot be asked" in said
    assert program.returncode == 1
    assert node.lines("ip route show proto 88") == []


@pytest.mark.root
def test_a_name_that_the_kernel_would_refuse_is_refused_first(node: Node, tmp_path: Path) -> None:
    status, said = run(node, tmp_path, "--interface", "a-name-that-is-long")
    assert status == 1
    assert "no name for an interface of at most 14 letters" in said


def test_the_help_says_what_happens_to_the_network() -> None:
    said = " ".join(CliRunner().invoke(cli.app, ["check-bgp", "--help"]).output.split())
    for part in ("192.0.2.88", "Its peers hear of these four routes", "everything is removed"):
        assert part in said
    assert all(option in said for option in ("--bird-socket", "--frr-directory", "--interface"))
