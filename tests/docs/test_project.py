"""The habits of the project: one version, pinned packages, one test command, a way to report."""

import importlib.metadata
import re
import subprocess
import sys

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from handover_api import __version__
from handover_lab.docs.pages import ROOT

CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
FORMS = sorted(
    path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"
)
DEBIAN_12 = "3.11.2"
"""The oldest Python that the README names."""
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


def test_the_version_stands_in_one_place() -> None:
    chart = yaml.safe_load((ROOT / "charts/handover/Chart.yaml").read_text())
    project = (ROOT / "pyproject.toml").read_text()

    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    assert 'dynamic = ["version"]' in project
    assert 'path = "crds/handover_api/__init__.py"' in project


def test_the_changelog_begins_with_what_is_not_released() -> None:
    titles = re.findall(r"^## \[(.+?)\]", CHANGELOG, re.MULTILINE)
    released = [Version(title) for title in titles[1:]]

    assert titles[0] == "Unreleased"
    assert released == sorted(released, reverse=True)
    assert all(version <= Version(__version__) for version in released)


def test_the_changelog_says_each_thing_once_in_the_order_of_keep_a_changelog() -> None:
    order = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    for release in CHANGELOG.split("\n## [")[1:]:
        headings = re.findall(r"^### (.+)$", release, re.MULTILINE)
        told = [each.strip() for each in re.split(r"^(?=- |###)", release, flags=re.MULTILINE)[1:]]

        assert headings == [each for each in order if each in headings]
        assert sorted(told) == sorted(set(told))


def test_every_package_is_pinned_with_hashes_and_none_says_where_it_comes_from() -> None:
    blocks = re.findall(r"^[a-z0-9.-]+==[^\n]*(?:\n[ \t]+[^\n]*)*", CONSTRAINTS, re.MULTILINE)
    lines = [line for line in CONSTRAINTS.splitlines() if line and line[0] not in " \t#"]

    assert len(blocks) == len(lines) > 0
    assert [block for block in blocks if "--hash=sha256:" not in block] == []
    assert re.search(r"https?://|--(?:extra-)?index|--find-links|--trusted", CONSTRAINTS) is None


def test_every_pinned_package_takes_the_python_of_debian_12() -> None:
    pinned = {
        canonicalize_name(name): Version(version)
        for name, version in re.findall(r"^([a-z0-9.-]+)==(\S+)", CONSTRAINTS, re.MULTILINE)
    }
    refusing = {}
    for each in importlib.metadata.distributions():
        if pinned.get(canonicalize_name(each.name)) != Version(each.version):
            continue
        del pinned[canonicalize_name(each.name)]
        wanted = str(each.metadata.json.get("requires_python", ""))
        if DEBIAN_12 not in SpecifierSet(wanted):
            refusing[each.name] = wanted

    assert refusing == {}
    assert set(pinned) <= {"colorama"}  # what this machine's markers leave out


def test_the_workflow_runs_what_everybody_runs() -> None:
    (job,) = WORKFLOW["jobs"].values()
    commands = [step["run"].strip() for step in job["steps"] if "run" in step]

    assert ".ci/run" in commands
    assert not any("pytest" in command for command in commands)
    assert WORKFLOW["permissions"] == {"contents": "read"}


def test_the_workflow_uses_nothing_but_its_hosts_own_actions_by_their_commits() -> None:
    (job,) = WORKFLOW["jobs"].values()
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    pinned = re.findall(r"uses: actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", text, re.MULTILINE)

    assert len(pinned) == text.count("uses:") > 0
    go = next(step["with"] for step in job["steps"] if "setup-go" in step.get("uses", ""))
    assert (ROOT / go["go-version-file"]).exists()


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        (".github/workflows/ci.yml", "github-workflows"),
        (".github/dependabot.yml", "dependabot"),
        (".github/ISSUE_TEMPLATE/config.yml", "github-issue-config"),
        *((str(path.relative_to(ROOT)), "github-issue-forms") for path in FORMS),
    ],
)
def test_what_github_reads_keeps_to_its_schema(path: str, schema: str) -> None:
    argv = ["-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", path]
    done = subprocess.run(
        [sys.executable, *argv], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["SECURITY.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md"])
def test_every_file_that_a_project_page_links_exists(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text())

    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
