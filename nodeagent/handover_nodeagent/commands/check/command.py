"""The ``check`` subcommand: tells a person what would not work on this node, and what to do."""

import asyncio
import json
import os
from pathlib import Path
from typing import Annotated

import typer

from handover_api import names
from handover_api.configuration import Settings
from handover_nodeagent import configuration
from handover_nodeagent.commands.check import access_review, findings, surroundings
from handover_nodeagent.commands.check.findings import Finding
from handover_nodeagent.commands.status import Output, OutputOption, StateDirectory
from handover_nodeagent.configuration import Invalid
from handover_nodeagent.memory.files import Memory


def check(
    output: OutputOption = Output.TABLE,
    state_directory: StateDirectory = Path("/run/handover"),
    *,
    no_api: Annotated[bool, typer.Option("--no-api", help="ask no API server")] = False,
) -> None:
    """Look for what would keep the agent from working on this node, and say what to do.

    It looks at the configuration, the kernel's settings for the workloads' interfaces, eBPF
    programs, routes of BGP speakers, nftables, the state directory and the rights in the API.

    Run it where the agent runs, for instance with kubectl exec in its pod. It changes nothing.
    Exit status 1 when something fails.
    """
    found = list(gather(state_directory, ask_api=not no_api))
    if output is Output.JSON:
        typer.echo(json.dumps([one.to_object() for one in found], indent=2))
    else:
        typer.echo(findings.render(found))
    raise typer.Exit(findings.has_failed(found))


def gather(state_directory: Path, *, ask_api: bool) -> list[Finding]:
    """Look at everything."""
    # First, as the other checks judge by the settings.
    settings, found = settings_in_force(state_directory)
    found += surroundings.observe(settings)
    found.append(surroundings.state_directory(state_directory))
    if ask_api:
        found += findings.attempt("API rights", lambda: asyncio.run(access_review.gather()))
    return found


def settings_in_force(directory: Path) -> tuple[Settings, list[Finding]]:
    """Return what the agent remembers of the configuration, with the environment over it."""
    # The agent's own memory: what it acts by while the API server is away.
    memory = Memory(directory)
    specs = memory.load_configuration()
    memory.close()
    node = f"{names.NODE_CONFIGURATION_PREFIX}{os.environ.get('HANDOVER_NODE_NAME', '')}"
    overrides = configuration.overrides(os.environ)
    known = specs or {}
    effective = configuration.effective(
        known.get(names.DEFAULT_CONFIGURATION), known.get(node), overrides
    )
    # Nothing is known of an invalid one: the other checks go by the defaults.
    if isinstance(effective, Invalid):
        return Settings(), [findings.fail("configuration", str(effective), "correct this field")]
    if specs is None:
        text = "none is remembered: an agent that starts now waits for the API server's answer"
        remedy = "see whether the agent runs here, and whether it reaches the API server"
        return effective, [findings.warn("configuration", text, remedy)]
    return effective, [findings.ok("configuration", f"valid; mode {effective.mode}")]
