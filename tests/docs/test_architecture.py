"""ARCHITECTURE.md names files and folders: each is there, and no room is left out."""

import itertools
import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
PACKAGES: Final = (
    "crds/handover_api",
    "operator/handover_operator",
    "nodeagent/handover_nodeagent",
    "e2e/handover_lab",
)
WALKS: Final = (
    "### From an announcement to its route",
    "### From the guest's stop to its late packets",
    "### From a role to the kernel",
    "### From a VMIM to its outcome",
)


def expanded(name: str) -> list[str]:
    """Write out the alternatives in braces: ``fsm/{step,table}.py`` are two files."""
    parts = [part.split(",") for part in re.split(r"[{}]", name)]
    return ["".join(choice) for choice in itertools.product(*parts)]


def places() -> list[str]:
    """Return all files of Python and all folders that the text names in backticks."""
    named = re.findall(r"`([\w./{},-]*(?:\.py|/))`", TEXT)
    return sorted({one for name in named for one in expanded(name)})


@pytest.mark.parametrize("place", places())
def test_each_file_and_folder_that_is_named_is_there(place: str) -> None:
    above = (ROOT, *(ROOT / package for package in PACKAGES))
    found = [root / place for root in above if (root / place).exists()]
    assert found, f"{place} is in none of {', '.join(PACKAGES)}"


@pytest.mark.parametrize("package", PACKAGES)
def test_each_room_is_named(package: str) -> None:
    rooms = {
        f"{path.parent.relative_to(ROOT / package)}/"
        for path in (ROOT / package).glob("**/__init__.py")
        if path.parent != ROOT / package
    }
    assert sorted(rooms - set(places())) == []


@pytest.mark.parametrize("title", WALKS)
def test_each_walk_is_a_list_of_steps_with_their_files(title: str) -> None:
    walk = TEXT.split(f"{title}\n", 1)[1].split("\n##", 1)[0]
    steps = re.split(r"\n(?=\d+\. )", walk)[1:]
    assert [step.split(".", 1)[0] for step in steps] == [str(n + 1) for n in range(len(steps))]
    assert len(steps) >= 4
    assert [step for step in steps if not re.search(r"`[\w./{},-]+\.py`", step)] == []
