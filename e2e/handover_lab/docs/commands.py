"""The commands of both programs, for the reference pages: what each says of itself by --help."""

from collections.abc import Iterator
from typing import Final

import typer
from typer.testing import CliRunner

from handover_nodeagent import cli as agent
from handover_operator import cli as operator

# As wide as the lines of this project's text; else it would go by the terminal of whoever runs it.
_WIDTH: Final = 100
_PROGRAMS: Final = (
    ("Operator", "handover-operator", operator.app),
    ("Node agent", "handover-nodeagent", agent.app),
)


def sections() -> Iterator[str]:
    """Yield a title and the help of each command, program by program."""
    for title, program, app in _PROGRAMS:
        yield f"## {title}: `{program}`"
        yield _help(app, program)
        for name in sorted(_names(app)):
            yield f"### `{program} {name}`"
            yield _help(app, program, name)


def _names(app: typer.Typer) -> Iterator[str]:
    for command in app.registered_commands:
        if command.callback and not command.hidden:
            yield command.name or command.callback.__name__.strip("_").replace("_", "-")


def _help(app: typer.Typer, program: str, *command: str) -> str:
    shown = CliRunner().invoke(
        app, [*command, "--help"], prog_name=program, terminal_width=_WIDTH, color=False
    )
    assert shown.exit_code == 0, shown.output
    lines = (line.rstrip() for line in shown.output.strip().splitlines())
    return "\n".join(("```text", *lines, "```"))
