"""The ``check-bgp`` subcommand: tells whether the BGP speaker on this node would follow."""

import json
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from handover_nodeagent.commands.check import command as check_command
from handover_nodeagent.commands.check import findings
from handover_nodeagent.commands.check.findings import Finding
from handover_nodeagent.commands.check_bgp.control_sockets import ControlSockets
from handover_nodeagent.commands.status import Output, OutputOption, StateDirectory

_BIRD = typer.Option("--bird-socket", help="BIRD's control socket, where it is not found")
_FRR = typer.Option("--frr-directory", help="where FRR has zebra.vty and bgpd.vty")
_INTERFACE = typer.Option(
    "--interface",
    help="the probe's, for filters that go by a name such as cali*; at most 14 characters",
)


def check_bgp(
    output: OutputOption = Output.TABLE,
    state_directory: StateDirectory = Path("/run/handover"),
    *,
    bird_socket: Annotated[Path | None, _BIRD] = None,
    frr_directory: Annotated[Path | None, _FRR] = None,
    interface: Annotated[str, _INTERFACE] = "handover-probe",
) -> None:
    """Would the BGP speaker on this node follow? Ask it, and name the line that is missing.

    For some two seconds there are routes to 192.0.2.88, 192.0.2.89, 2001:db8::88 and
    2001:db8::89, as the agent would make them: of the elevated and of the normal priority, with
    its protocol number, on an interface of their own. BIRD (2 or 3) or FRR is asked over its
    control socket whether it took them, whom it would tell, with which LOCAL_PREF, and whether
    it withdraws them when they are replaced in place, as a redirect replaces a route. Its peers
    hear of these four routes; they are in prefixes set aside for documentation.

    Nothing else is changed, and everything is removed, also when a signal ends the command; what a
    SIGKILL left is removed by the next run.

    Run it on the node as root, or in a pod with its network, CAP_NET_ADMIN and the speaker's
    socket. Exit status 1 when something fails.
    """
    found = list(gather(state_directory, _named(bird_socket, frr_directory), interface))
    if output is Output.JSON:
        typer.echo(json.dumps([one.to_object() for one in found], indent=2))
    else:
        typer.echo(findings.render(found))
    raise typer.Exit(findings.has_failed(found))


def gather(state_directory: Path, named: ControlSockets, interface: str) -> list[Finding]:
    """Ask the speakers that are *named*, or else those that are to be found."""
    # Here and not above: the agent is the same program, and has no use for pyroute2.
    from handover_nodeagent.commands.check_bgp import probe, speakers  # noqa: PLC0415

    settings, found = check_command.settings_in_force(state_directory)
    if not 0 < len(interface) <= probe.LONGEST_NAME:
        text = f"{interface!r} is no name for an interface of at most {probe.LONGEST_NAME} letters"
        return [*found, findings.fail("probe", text, "see --interface")]
    sockets = named or speakers.discover()
    found += findings.attempt("BGP", lambda: speakers.check(sockets, settings, interface))
    return found


def _named(bird: Path | None, frr: Path | None) -> ControlSockets:
    return ControlSockets(
        (PurePosixPath(bird.absolute()),) if bird else (),
        (PurePosixPath(frr.absolute()),) if frr else (),
    )
