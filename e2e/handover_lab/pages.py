"""The pages of the documentation and the commands in them, as the tests read them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
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
    return sorted(DOCS.rglob("*.md"))


def blocks(*languages: str) -> Iterator[Block]:
    """Yield the blocks of all pages in these languages, or in any."""
    for page in pages():
        for indent, language, text in FENCE.findall(page.read_text()):
            if not languages or language in languages:
                lines = tuple(line.removeprefix(indent) for line in text.splitlines())
                yield Block(str(page.relative_to(DOCS)), language, lines)


def console_commands() -> Iterator[tuple[str, list[str]]]:
    """Yield page and words of every command that needs a cluster."""
    for block in blocks("console"):
        for line in block.lines:
            yield block.page, shlex.split(line.removeprefix("$ "))
