"""Sphinx draws the state machine while it builds: Mermaid's stateDiagram-v2 → Graphviz → SVG.

So the page that is generated from the tables stays as it is, is a picture wherever Markdown is
shown, and is one in the documentation without a script from anywhere.
"""

import re
from pathlib import Path
from typing import Final

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

FENCE: Final = re.compile(r"^```mermaid\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
ARROW: Final = re.compile(r"\s*(\S+) --> (\S+?)(?:: (.*))?")
END: Final = "[*]"
HEAD: Final = (
    'bgcolor="white"; nodesep=0.6; ranksep=0.9; '
    'node [shape=box, style="rounded,filled", fillcolor="#eef4fb", color="#4a6fa5", '
    'fontname="sans-serif"]; edge [color="#555555", fontname="sans-serif", fontsize=10];'
)


def dot(text: str) -> str:
    """Translate a diagram; a line that is no arrow is refused, so that nothing is left out."""
    first, *lines = text.strip().splitlines()
    if first.strip() != "stateDiagram-v2":
        message = f"only stateDiagram-v2 can be drawn, not {first.strip()}"
        raise ExtensionError(message)
    drawn = [HEAD, f'"{END}" [shape=doublecircle, label="", width=0.2, fillcolor="#333333"];']
    ends: list[set[str]] = []
    for line in filter(str.strip, lines):
        arrow = ARROW.fullmatch(line)
        if arrow is None:
            message = f"the state drawing has a line that is no arrow: {line.strip()}"
            raise ExtensionError(message)
        start, end, label = arrow.groups(default="")
        text = label.replace("<br/>", "\\n").replace('"', '\\"')
        drawn.append(f'"{start}" -> "{end}" [label="{text}"];')
        ends.append({start, end})
    if not any(END in line for line in drawn[2:]):
        del drawn[1]
    if len(ends) > 1 and set.intersection(*ends):
        # All around one state: a row of them would be too wide to read.
        drawn.insert(1, "rankdir=LR;")
    return f"digraph states {{ {' '.join(drawn)} }}"


def draw(app: Sphinx, name: str, content: list[str]) -> None:
    """Put a Graphviz drawing in the place of each fence of a page."""
    del app, name
    content[0] = FENCE.sub(lambda fence: drawing(fence[1]), content[0])


def draw_included(app: Sphinx, path: Path, name: str, content: list[str]) -> None:
    """Do the same where a page has a part of another one."""
    del path
    draw(app, name, content)


def drawing(text: str) -> str:
    """Return the fence for Sphinx; who sees no picture reads the arrows."""
    arrows = "; ".join(line.strip() for line in text.splitlines()[1:])
    return f"```{{graphviz}}\n:alt: {arrows}\n\n{dot(text)}\n```"


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of the fences."""
    app.connect("source-read", draw)
    app.connect("include-read", draw_included)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
