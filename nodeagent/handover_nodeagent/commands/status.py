"""The ``status`` subcommand: shows a person the endpoints of this node as the agent sees them."""

import datetime as dt
import enum
from pathlib import Path
from typing import Annotated

import pydantic
import typer

from handover_nodeagent.status import inspection, local_socket
from handover_nodeagent.status.inspection import Snapshot


class Output(enum.StrEnum):
    """How to print."""

    TABLE = "table"
    JSON = "json"


StateDirectory = Annotated[
    Path,
    typer.Option(envvar="HANDOVER_STATE_DIRECTORY", help="the running agent's", show_default=True),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table or json")]


def status(
    output: OutputOption = Output.TABLE, state_directory: StateDirectory = Path("/run/handover")
) -> None:
    """Show this node's endpoints: role, state, interface, routes and the last cutover.

    Below them stand its routes to guests of other nodes: to which one, and by what.

    Reads the running agent over a socket in its state directory; it asks no API server and
    changes nothing. With -o json each endpoint comes with its whole status.
    """
    # The running agent alone knows: what is in the API is what it reported last.
    try:
        answer = local_socket.ask(state_directory)
        snapshot = Snapshot.model_validate_json(answer)
    except local_socket.Unanswered as error:
        typer.echo(f"handover-nodeagent: {error}", err=True)
        raise typer.Exit(1) from None
    # During an upgrade the command may be newer than the agent that it asks.
    except pydantic.ValidationError:
        typer.echo("handover-nodeagent: the running agent is of another version", err=True)
        raise typer.Exit(1) from None
    if output is Output.JSON:
        typer.echo(answer.decode())
    else:
        now = dt.datetime.now(dt.UTC)  # noqa: TID251  a person's clock
        typer.echo(inspection.table(snapshot, now))
