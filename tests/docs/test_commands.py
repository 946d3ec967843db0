"""The commands of the documentation: `sh` runs here, `console` needs a cluster and says so with $.

What can be asked of a cluster without nodes is asked of a real API server.
"""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml

from handover_lab.cluster.controlplane import ControlPlane
from handover_lab.docs import chart
from handover_lab.docs.pages import ROOT, Block, blocks, console_commands, name_of, pages
from handover_lab.kubevirt import objects
from handover_lab.network.namespaces import Namespace
from handover_lab.toolchain import tools

LANGUAGES: Final = {
    "sh",
    "console",
    "text",
    "mermaid",
    "{toctree}",
    "{literalinclude}",
    "{include}",
}
PROGRAMS: Final = {
    *("make", "helm", "kubectl", ".ci/run", "build/demo/kubectl"),
    *(".venv/bin/pytest", ".venv/bin/python"),
    *("birdc", "ctr", "ip", "nft", "sysctl", "vtysh"),
}
ANSWERABLE: Final = {"get", "describe", "explain", "auth", "apply", "patch"}
"""Verbs that need no node and no controller."""

OBJECTS: Final = ("workloadendpoints.yaml", "livemigration.yaml")
DEFAULT: Final = {
    "apiVersion": "handover.dev/v1alpha1",
    "kind": "HandoverConfiguration",
    "metadata": {"name": "default"},
    "spec": {"mode": "active"},
}
SETTINGS: Final = sorted(
    {
        tuple(
            part for at, word in enumerate(words) if word == "--set" for part in words[at : at + 2]
        )
        for _, words in console_commands()
        if words[0] == "helm" and "--set" in words
    }
)
LEFT_OVER: Final = """
ip link add tapvm up type veth peer name guest && ip link set guest up
ip route add 10.65.0.2 dev tapvm metric 1024 proto 88
ip route add fd00:65::2 dev tapvm metric 1024 proto 88
ip route add 10.65.0.9 dev tapvm proto static
ip route add 10.65.0.3 dev tapvm table 5254 proto static
nft add table arp handover
nft add table inet other
"""
RUNNABLE: Final = [block for block in blocks("sh") if block.lines]


def test_every_block_is_of_a_known_kind() -> None:
    strange = [str(block) for block in blocks() if block.language not in LANGUAGES]

    assert strange == []


def test_indented_commands_are_not_hidden_from_the_tests() -> None:
    hidden = [
        f"{name_of(page)}: {line}"
        for page in pages()
        if "reference" not in page.parts
        for line in page.read_text().splitlines()
        if re.match(r"^    (\$ |make |helm |kubectl |ip )", line)
    ]

    assert hidden == []


@pytest.mark.parametrize("block", RUNNABLE, ids=str)
def test_what_needs_nothing_runs(block: Block) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(block.lines)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout != ""


def test_each_line_that_needs_a_cluster_is_a_whole_command() -> None:
    wrong = [
        line
        for block in blocks("console")
        for line in block.lines
        if not line.startswith("$ ") or line.endswith("\\")
    ]

    assert wrong == []
    assert {words[0] for _, words in console_commands()} <= PROGRAMS


def test_make_has_every_target_that_is_named() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[1] for _, words in console_commands() if words[0] == "make"}

    assert named - targets == set()


def test_the_chart_has_every_value_that_is_set() -> None:
    known = {each.name for each in chart.leaves(chart.values())}
    fields = chart.configuration_schema()["properties"]
    known |= {f"configuration.{name}" for name in fields}
    named = {name for page in pages() for name in re.findall(r"--set ([\w.]+)=", page.read_text())}

    assert len(named) > 3
    assert named - known == set()


def test_every_file_that_is_named_exists() -> None:
    named = {
        words[position + 1]
        for _, words in console_commands()
        for position, word in enumerate(words)
        if word == "-f"
    }

    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings[-1])
def test_the_chart_accepts_the_values_that_are_set(settings: tuple[str, ...]) -> None:
    try:
        helm = tools.locate("helm")
    except tools.ToolsError as error:
        pytest.skip(str(error))
    named = ("handover", str(chart.CHART), "--namespace", "handover-system")
    argv = [str(helm), "template", *named, *settings]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.root
def test_what_an_uninstall_leaves_can_be_taken_out_by_hand() -> None:
    node = Namespace.make("node")
    try:
        node.run(LEFT_OVER)
        by_hand = [
            shlex.join(words)
            for page, words in console_commands()
            if page == "operations.md" and words[0] in {"ip", "nft"}
        ]
        taken_out = [each for each in by_hand if "flush" in each or "delete" in each]
        for command in taken_out:
            node.run(command)
        left = node.run("ip route; ip -6 route; nft list tables; ip route show table 5254")
    finally:
        node.end()

    assert len(taken_out) == 3
    assert "10.65.0.9" in left
    assert "10.65.0.3" in left
    assert not re.search(r"proto 88|10\.65\.0\.2|fd00:65|arp handover", left)
    assert "table inet other" in left


@pytest.mark.api
def test_kubectl_understands_every_command_that_an_api_server_alone_can_answer(
    api_server: ControlPlane, tmp_path: Path
) -> None:
    configuration = tmp_path / "default.yaml"
    configuration.write_text(yaml.safe_dump(DEFAULT))
    program = tools.locate("kubectl")

    def kubectl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *arguments],
            env={"HOME": "/nonexistent", "KUBECONFIG": str(api_server.kubeconfig)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    made = [*sorted(chart.CRDS.glob("*.yaml")), objects.CRDS]
    assert kubectl("apply", *(f"--filename={path}" for path in made)).returncode == 0
    crds = ("--for=condition=Established", "crd", "--all")
    assert kubectl("wait", "--timeout=30s", *crds).returncode == 0
    for name in OBJECTS:
        assert kubectl("apply", "-f", f"examples/{name}").stderr == ""
    assert kubectl("apply", "-f", str(configuration)).stderr == ""
    failures = []
    asked = 0
    for page, words in console_commands():
        if not words[0].endswith("kubectl") or not is_answerable(words[1:]):
            continue
        asked += 1
        done = kubectl(*words[1:])
        if done.returncode != 0 and "can-i" not in words:
            failures.append(f"{page}: {' '.join(words)}: {done.stderr.strip()}")
    assert kubectl("delete", "lm,wep,vmim", "--all").returncode == 0
    assert kubectl("delete", "hc", "--all").returncode == 0
    assert failures == []
    assert asked > 20


def is_answerable(words: list[str]) -> bool:
    """Whether a command needs nothing but an API server and the objects of the examples.

    A patch of the outcome is not: it may be set once, and every page shows its own.
    """
    return words[0] in ANSWERABLE and not any("outcome" in word for word in words)
