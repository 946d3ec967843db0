"""The pages that a person reads and the commands in them, as the tests read them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from handover_lab import paths

ROOT: Final = paths.ROOT
DOCS: Final = paths.DOCS
OTHERS: Final = (
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "ARCHITECTURE.md"),
    "charts/handover/README.md",
)
"""What a person reads outside of the documentation."""

FENCE: Final = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {self.lines[0] if self.lines else 'empty'}"


def pages() -> list[Path]:
    """Return all pages."""
    return [*sorted(DOCS.rglob("*.md")), *(ROOT / name for name in OTHERS)]


def blocks(*languages: str) -> Iterator[Block]:
    """Yield the blocks of all pages in these languages, or in any."""
    for page in pages():
        for indent, language, text in FENCE.findall(page.read_text()):
            if not languages or language in languages:
                lines = tuple(line.removeprefix(indent) for line in text.splitlines())
                yield Block(name_of(page), language, lines)


def name_of(page: Path) -> str:
    """Name a page as those do who write it."""
    return str(page.relative_to(DOCS if page.is_relative_to(DOCS) else ROOT))


def console_commands() -> Iterator[tuple[str, list[str]]]:
    """Yield page and words of every command that needs a cluster."""
    for block in blocks("console"):
        for line in block.lines:
            yield block.page, shlex.split(line.removeprefix("$ "))


def typed(page: str, title: str) -> Iterator[str]:
    """Yield the lines that a person types who follows one section of a page."""
    text = (DOCS / page).read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    for _, language, body in FENCE.findall(text):
        if language == "console":
            yield from (line.strip().removeprefix("$ ") for line in body.splitlines())
