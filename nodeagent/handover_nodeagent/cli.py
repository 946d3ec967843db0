"""The command line of the node agent: parses, and calls; what it ends with is an exit status.

2: somebody has to change what the agent was told; 1: it could not do its work.
"""

import asyncio
from typing import Annotated

import structlog
import typer

import handover_api
from handover_nodeagent import main
from handover_nodeagent import settings as environment
from handover_nodeagent.api import access
from handover_nodeagent.commands import sniff, status
from handover_nodeagent.commands.check import command as checks_command
from handover_nodeagent.commands.check_bgp import command as check_bgp_command
from handover_nodeagent.status import logs

app = typer.Typer(
    name="handover-nodeagent",
    no_args_is_help=True,
    rich_markup_mode=None,
    # They need rich, which the program keeps out of its memory.
    pretty_exceptions_enable=False,
    help="""Handover's node agent: moves the routes of live-migrating VMs at the switchover.

    It runs on every node, watches the WorkloadEndpoints of its own node, hears the guests announce
    themselves, and keeps their routes, neighbor entries and the ARP guard in the kernel. It needs
    CAP_NET_ADMIN and CAP_NET_RAW, and nothing else.
    """,
)
app.command("sniff")(sniff.sniff)
app.command("status")(status.status)
app.command("check")(checks_command.check)
app.command("check-bgp")(check_bgp_command.check_bgp)


def _version(*, asked: bool) -> None:
    if asked:
        typer.echo(f"handover-nodeagent {handover_api.__version__}")
        raise typer.Exit


# Only a callback can have options of the whole program, such as --version.
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
    """Run until SIGTERM; while a guest is awaited, until it came or a second SIGTERM.

    The API server is found through KUBECONFIG, else the pod's service account, else
    ~/.kube/config. Everything else comes from the environment (default in brackets):

    \b
    HANDOVER_NODE_NAME [required]  this node's name in Kubernetes
    HANDOVER_NODE_ADDRESSES [none]  where other nodes' agents reach this one
    HANDOVER_STATE_DIRECTORY [/run/handover]  what survives the agent
    HANDOVER_PORT [8081]  serves /healthz, /readyz and /metrics
    HANDOVER_LISTEN_ADDRESS [127.0.0.1]  where that is served
    HANDOVER_METRICS_ADDRESS [none]  where /metrics is served besides
    HANDOVER_DRAIN_SECONDS [570]  how long after SIGTERM a guest is awaited
    HANDOVER_LOG_LEVEL [info]  debug, info, warning or error
    HANDOVER_LOG_FORMAT [json]  json or console

    Each field of HandoverConfiguration can be set for this node alone, for instance
    HANDOVER_PROBE_INTERVAL=100ms; it goes before the objects in the cluster.
    """  # noqa: D301  a raw string would not hold the mark that keeps lines (click)
    try:
        settings = environment.read()
    except environment.Misconfigured as error:
        typer.echo(f"handover-nodeagent: {error}", err=True)
        raise typer.Exit(2) from None
    logs.configure(settings.log_level, settings.log_format)
    structlog.get_logger().info(
        "starting", version=handover_api.__version__, node=settings.node_name
    )
    # Misconfiguration apart, all that ends an agent is one of these, with a sentence for a person.
    try:
        asyncio.run(main.run(settings))
    except (access.Unconfigured, main.Broken, main.Unusable) as error:
        typer.echo(f"handover-nodeagent: {error}", err=True)
        raise typer.Exit(1) from None
