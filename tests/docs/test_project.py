"""The habits of the project: one version, pinned packages, one test command, a way to report."""

import re
from typing import Any

import pytest
import yaml
from packaging.version import Version

from handover_api import __version__
from handover_lab.pages import ROOT

CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
TEMPLATES = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
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


def test_every_package_is_pinned_with_hashes_and_none_says_where_it_comes_from() -> None:
    blocks = re.findall(r"^[a-z0-9.-]+==[^\n]*(?:\n[ \t]+[^\n]*)*", CONSTRAINTS, re.MULTILINE)
    lines = [line for line in CONSTRAINTS.splitlines() if line and line[0] not in " \t#"]

    assert len(blocks) == len(lines) > 0
    assert [block for block in blocks if "--hash=sha256:" not in block] == []
    assert re.search(r"https?://|--(?:extra-)?index|--find-links|--trusted", CONSTRAINTS) is None


def test_the_workflow_runs_what_everybody_runs() -> None:
    (job,) = WORKFLOW["jobs"].values()
    commands = [step["run"].strip() for step in job["steps"] if "run" in step]

    assert ".ci/run" in commands
    assert not any("pytest" in command for command in commands)
    assert WORKFLOW["permissions"] == {"contents": "read"}


def test_the_workflow_uses_nothing_but_its_hosts_own_actions() -> None:
    (job,) = WORKFLOW["jobs"].values()
    used = [step["uses"] for step in job["steps"] if "uses" in step]

    assert [name for name in used if not re.fullmatch(r"actions/[a-z-]+@v\d+", name)] == []
    go = next(step["with"] for step in job["steps"] if "setup-go" in step.get("uses", ""))
    assert (ROOT / go["go-version-file"]).exists()


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_an_issue_template_is_a_form(path: Any) -> None:
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert "blank_issues_enabled" in form
        return
    assert {"name", "description", "body"} <= set(form)
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids)) > 1


@pytest.mark.parametrize("name", ["SECURITY.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md"])
def test_every_file_that_a_project_page_links_exists(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text())

    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
