"""What is in the two images: read from their archives, and run in their own file systems."""

import json
import re
import subprocess
import tarfile
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from handover_api import __version__
from handover_lab.images import base, build
from handover_nodeagent.kernel.arp_guard import rules

pytestmark = pytest.mark.root

Summary = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Unpacked:
    """An image as a container runtime sees it."""

    root: Path
    configuration: dict[str, Any]
    tag: str

    @property
    def environment(self) -> dict[str, str]:
        """What a container's processes find in theirs."""
        return dict(each.split("=", 1) for each in self.configuration["config"]["Env"])

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the image as its user, with its environment."""
        settings = self.configuration["config"]
        return subprocess.run(
            ["/usr/sbin/chroot", f"--userspec={settings['User']}", self.root, *argv],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def find(self, pattern: str) -> list[Path]:
        """Return what is in the image under a path with wildcards."""
        return sorted(path.relative_to(self.root) for path in self.root.glob(pattern))


def unpack(summary: Summary, name: str, rooms: pytest.TempPathFactory) -> Unpacked:
    """Unpack all layers of an image into a directory that is open to the image's own user."""
    root = rooms.mktemp(name)
    root.chmod(0o755)
    with tarfile.open(summary[name]["archive"]) as content:
        (manifest,) = json.load(member(content, "manifest.json"))
        configuration = json.load(member(content, manifest["Config"]))
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=member(content, layer)) as files:
                # Python before 3.11.4 has no filters, and the default of later ones is narrower.
                files.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
                files.extractall(root)  # noqa: S202  our own archive
    return Unpacked(root, configuration, manifest["RepoTags"][0])


def member(content: tarfile.TarFile, name: str) -> Any:
    """Open one file of an archive."""
    found = content.extractfile(name)
    assert found is not None
    return found


def read_summary() -> Summary:
    """Return what is told of each image, by its name without the version."""
    told = json.loads(build.SUMMARY.read_text())
    return {each["name"].removesuffix(f":{__version__}"): each for each in told}


@pytest.fixture(scope="module")
def summary() -> Summary:
    """Have both images built, and return what is told of them."""
    build.build_all()
    return read_summary()


@pytest.fixture(scope="module")
def operator(summary: Summary, tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    return unpack(summary, "handover-operator", tmp_path_factory)


@pytest.fixture(scope="module")
def nodeagent(summary: Summary, tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    return unpack(summary, "handover-nodeagent", tmp_path_factory)


@pytest.fixture(params=["operator", "nodeagent"])
def image(request: pytest.FixtureRequest) -> Unpacked:
    unpacked = request.getfixturevalue(request.param)
    assert isinstance(unpacked, Unpacked)
    return unpacked


def test_what_has_not_changed_is_not_built_again(
    summary: Summary, capsys: pytest.CaptureFixture[str]
) -> None:
    build.build_all()

    assert "building" not in capsys.readouterr().out
    assert summary == read_summary()


def test_the_images_are_small(summary: Summary) -> None:
    assert summary["handover-operator"]["size_mib"] <= 150
    assert summary["handover-nodeagent"]["size_mib"] <= 115


def test_a_container_runs_the_program_without_a_shell(image: Unpacked) -> None:
    settings = image.configuration["config"]
    (program,) = settings["Entrypoint"]

    assert settings["Cmd"] == ["run"]
    assert image.tag == f"docker.io/library/{program}:{__version__}"
    done = image.run(program, "--version")
    assert done.stdout == f"{program} {__version__}\n", done.stderr


def test_the_operator_is_not_root_and_the_agent_is(operator: Unpacked, nodeagent: Unpacked) -> None:
    users = [each.configuration["config"]["User"] for each in (operator, nodeagent)]

    assert users == ["65532:65532", "0:0"]


def test_an_image_says_what_it_is(image: Unpacked) -> None:
    (program,) = image.configuration["config"]["Entrypoint"]
    prefix = "org.opencontainers.image."
    told = {
        name.removeprefix(prefix): value
        for name, value in image.configuration["config"]["Labels"].items()
        if name.startswith(prefix)
    }

    assert told.pop("description")
    assert told == {"title": program, "licenses": "Apache-2.0", "version": __version__}


def test_there_is_no_shell_and_nothing_to_install_or_build_with(image: Unpacked) -> None:
    install = ("dpkg", "apt", "apt-get", "pip", "pip3", "perl", "tar")
    build = ("cc", "gcc", "ld", "make", "as")
    tools = ("sh", "bash", "dash", *install, *build)

    assert [path for name in tools for path in image.find(f"usr/*bin/{name}")] == []
    assert image.find("opt/handover/pip") == []


@pytest.mark.parametrize("module", ["kopf", "kubernetes_asyncio", "scapy", "handover_operator"])
def test_the_agent_stays_light(nodeagent: Unpacked, module: str) -> None:
    done = nodeagent.run("python3", "-c", f"import {module}")

    assert f"No module named '{module}'" in done.stderr


def test_the_agent_finds_libnftables(nodeagent: Unpacked) -> None:
    script = "from handover_nodeagent.kernel.nft import libnftables; libnftables.Context()"

    assert nodeagent.run("python3", "-c", script).stderr == ""


def test_libnftables_reads_sets_of_every_newer_nft(summary: Summary) -> None:
    """1.0.6 follows their user data through a null pointer."""
    version = summary["handover-nodeagent"]["packages"]["debian"]["libnftables1"]

    assert tuple(int(part) for part in re.findall(r"\d+", version)[:3]) >= (1, 1, 3)


def test_an_older_nft_on_the_node_reads_the_guard(nodeagent: Unpacked) -> None:
    """Guards: of a map with a ``type`` 1.1.3 notes what makes an nft 1.0.6 crash."""
    guard = {"tap0": frozenset({IPv4Address("10.65.0.2")})}
    (nodeagent.root / "guard.nft").write_text(rules.render(guard))
    write = (
        "from handover_nodeagent.kernel.nft.libnftables import Context; "
        "print(Context().run(open('/guard.nft', 'rb').read()))"
    )
    script = """
        /usr/sbin/chroot "$0" python3 -c "$1" >&2
        /usr/sbin/nft --json list table arp handover
    """
    listed = subprocess.run(
        ["unshare", "--net", "bash", "-c", script, nodeagent.root, write],
        env=nodeagent.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert rules.parse(listed.stdout) == guard, listed.stderr


def test_the_operator_has_no_agent(operator: Unpacked) -> None:
    assert "No module named" in operator.run("python3", "-c", "import handover_nodeagent").stderr


def test_everything_is_compiled_so_that_a_read_only_root_costs_no_time(image: Unpacked) -> None:
    sources = image.find("opt/handover/**/*.py")
    tag = base.NEWEST.python.replace(".", "")
    cached = {
        path.parent / "__pycache__" / f"{path.stem}.cpython-{tag}.pyc"
        for path in sources
        if (image.root / path).stat().st_size
    }

    assert len(sources) > 300
    assert cached - set(image.find("opt/handover/**/*.pyc")) == set()


def test_nothing_of_the_machine_that_built_it_is_inside(image: Unpacked) -> None:
    stray = [path for path in ("etc/hostname", "etc/resolv.conf") if (image.root / path).exists()]
    scripts = image.find("opt/handover/bin/*")

    assert [path for path in stray if (image.root / path).read_text()] == []
    assert len(scripts) == 1
    assert (image.root / scripts[0]).read_text().startswith("#!/usr/local/bin/python3\n")


def test_localhost_is_not_asked_of_dns(image: Unpacked) -> None:
    assert "hosts: files dns" in (image.root / "etc" / "nsswitch.conf").read_text()


def test_scanners_find_the_packages(image: Unpacked, summary: Summary) -> None:
    (program,) = image.configuration["config"]["Entrypoint"]
    told = summary[program]["packages"]
    status = {path.name for path in image.find("var/lib/dpkg/status.d/*")}

    assert status == set(told["debian"])
    assert "libc6" in status
    assert len(image.find("opt/handover/*.dist-info")) == len(told["python"])


def test_the_same_inputs_give_the_same_image(
    summary: Summary, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    component = build.COMPONENTS[1]
    monkeypatch.setattr(build, "OUTPUT", tmp_path)
    monkeypatch.setattr(build, "SUMMARY", tmp_path / "images.json")
    monkeypatch.setattr(build, "COMPONENTS", (component,))

    build.build_all()

    assert read_summary()[component.name]["digest"] == summary[component.name]["digest"]
