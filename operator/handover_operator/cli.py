"""The command line of the operator."""

import asyncio
from typing import Annotated

import pydantic
import structlog
import typer

import handover_api
from handover_operator import main
from handover_operator.commands import check as check_command
from handover_operator.commands import uninstall as uninstall_command
from handover_operator.commands.handback import Left
from handover_operator.kube import connection, errors
from handover_operator.kube.client import Cluster
from handover_operator.kube.errors import Temporary
from handover_operator.observability import logs
from handover_operator.settings import OperatorSettings

app = typer.Typer(
    name="handover-operator",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="""Handover's operator: says who is source and who is target of a live migration.

    It watches LiveMigrations and WorkloadEndpoints of the whole cluster, writes the roles as
    annotations on the endpoints, and tells in the LiveMigration's status how far it is.
    """,
)


def _version(*, asked: bool) -> None:
    if asked:
        typer.echo(f"handover-operator {handover_api.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command()
def run() -> None:
    """Run until SIGTERM.

    The API server is found through KUBECONFIG, else the pod's service account, else
    ~/.kube/config. Everything else comes from the environment (default in brackets):

    \b
    HANDOVER_CONFIGURATION_FILE [none]  YAML with the spec of
        HandoverConfiguration "default", kept applied but for what a
        person has set
    HANDOVER_PORT [8080]  serves /healthz, /readyz and /metrics
    HANDOVER_LISTEN_ADDRESS [all]  where that is served
    HANDOVER_LOG_LEVEL [info]  debug, info, warning or error
    HANDOVER_LOG_FORMAT [json]  json or console
    HANDOVER_SWEEP_INTERVAL [300]  seconds between two looks for objects
        whose deletion no watch has told
    HANDOVER_WRITERS [8]  how many objects are written at the same time
    HANDOVER_LEADER_ELECTION [false]  whether several replicas agree on one
        that writes
    HANDOVER_NAMESPACE [handover-system]  where they keep their Lease
    HANDOVER_POD_NAME, HANDOVER_POD_UID [the host's, random]  by what the
        Lease calls its holder
    """  # noqa: D301  a raw string would not hold the mark that keeps lines (click)
    try:
        settings = OperatorSettings()
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = f"HANDOVER_{first['loc'][0]}".upper()
        typer.echo(f"handover-operator: {name}: {first['msg']}", err=True)
        # As a wrong option would: the environment is this program's command line.
        raise typer.Exit(2) from None
    logs.configure(settings.log_level, settings.log_format)
    structlog.get_logger().info("starting", version=handover_api.__version__)
    try:
        asyncio.run(main.run(settings))
    # What a person can mend is one sentence; whatever else ends the process shows its traceback.
    except (errors.Unconfigured, main.Unusable) as error:
        typer.echo(f"handover-operator: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def check(
    namespace: Annotated[str, typer.Option(help="Where Handover is installed.")],
    operator: Annotated[str, typer.Option(help="The operator's Deployment and account.")],
    nodeagent: Annotated[str, typer.Option(help="The agents' DaemonSet and account.")],
) -> None:
    """Say whether this cluster is ready; `helm test` runs it. Exit status 1: it is not."""
    release = check_command.Release(namespace, operator, nodeagent)
    try:
        is_ready = asyncio.run(_check(release))
    except errors.Unconfigured as error:
        typer.echo(f"handover-operator: {error}", err=True)
        raise typer.Exit(1) from None
    raise typer.Exit(0 if is_ready else 1)


async def _check(release: check_command.Release) -> bool:
    api_server = connection.Connection(await connection.find())
    is_ready = True
    try:
        # All are shown, also after the first trouble: a person mends them in one go.
        async for finding in check_command.findings(Cluster(api_server), release):
            typer.echo(str(finding))
            is_ready = is_ready and not finding.trouble
    finally:
        # Else aiohttp complains of it in the midst of what a person reads here.
        await api_server.close()
    return is_ready


@app.command()
def uninstall(
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the agents.")] = 60.0,
) -> None:
    """Let the agents hand their nodes back, where onUninstall says so; the chart's hook runs it."""
    try:
        left = asyncio.run(_uninstall(timeout))
    # A pre-delete hook that fails stops the uninstallation while there is still somebody to ask.
    except (errors.Unconfigured, errors.Absent, Temporary) as error:
        typer.echo(f"handover-operator: the agents cannot be asked: {error}", err=True)
        raise typer.Exit(1) from None
    # These fail nothing: without our route a guest could not be reached, and nobody else has one.
    for each in left.kept:
        typer.echo(f"keeps our route, for nothing else leads there: {each}")
    for each in left.late:
        typer.echo(f"still has routes of ours: {each}")
    if left.late:
        typer.echo(
            "See that the agents there run (helm test), then uninstall again; or leave these routes"
            " as they are: helm uninstall --no-hooks"
        )
        raise typer.Exit(1)
    typer.echo("all that was to be handed back is")


async def _uninstall(seconds: float) -> Left:
    api_server = connection.Connection(await connection.find())
    try:
        return await uninstall_command.hand_back(Cluster(api_server), seconds)
    finally:
        await api_server.close()
