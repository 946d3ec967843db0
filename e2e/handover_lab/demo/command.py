"""`make demo`: a real VM moves between two nodes of a real cluster, and its network follows.

    python -m handover_lab.demo [--keep] [--bgp bird|frr|none]

Begins to build what is missing, then starts itself anew in a sandbox, so that whatever ends it ends
all that it started. The exit status is 0 only when every migration with Handover was a good one.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final

from rich.console import Console

from handover_lab import paths
from handover_lab.cluster.cluster import Cluster
from handover_lab.cluster.nodenetwork import NodeNetwork
from handover_lab.demo import demonstration
from handover_lab.demo.builds import Builds
from handover_lab.demo.demonstration import Demonstration
from handover_lab.demo.timeline import Timeline
from handover_lab.guest import initramfs
from handover_lab.images import build
from handover_lab.network.carriers import Carrier
from handover_lab.sandbox import sandbox
from handover_lab.terminal.screen import Screen

PATIENT: Final = ("env", "--block-signal=INT")
"""Lets a Ctrl-C wait until somebody is prepared for it, and not hit an import."""

PROGRAM: Final = "handover_lab.demo"
BUILDS: Final = paths.BUILD / "builds"
Kind = type[Demonstration[Any]]

CARRIERS: Final[Mapping[str, Carrier]] = {"bird": "bird", "frr": "frr", "none": "agents"}
"""By what a person says: without BGP the agents tell each other."""

STOPPED: Final = 130
LOG_WIDTH: Final = 110
EXPECTED: Final = (RuntimeError, OSError, subprocess.CalledProcessError)
"""What the parts of the lab raise with a sentence for a person."""


def main() -> int:
    """Demonstrate Handover."""
    return run(PROGRAM, demonstration.Demo)


def run(program: str, demonstration_type: Kind) -> int:
    """Give a demonstration as the module *program*, and return its exit status."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}", description=demonstration_type.__doc__
    )
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end")
    parser.add_argument(
        "--bgp", choices=CARRIERS, default="none", help="who carries the agents' routes"
    )
    arguments = parser.parse_args()
    screen = Screen(Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    # Whoever kills a program that has ended by itself makes asyncio wonder aloud.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
        if not sandbox.current():
            return outside(screen, program)
        carrier = CARRIERS[arguments.bgp]
        return inside(screen, demonstration_type, carrier, keep=arguments.keep)
    except KeyboardInterrupt:
        screen.note("Stopped; nothing is left behind.")
        return STOPPED
    except EXPECTED as error:
        screen.fault(f"The demo ended early: {sentence(error)}")
        return 1


def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # a handler's
    """Take a wish to end as Ctrl-C, for which everybody is prepared."""
    signal.raise_signal(signal.SIGINT)


def sentence(error: BaseException) -> str:
    """Say what went wrong as the one who knows it said it."""
    if isinstance(error, subprocess.CalledProcessError):
        said = error.stderr.decode() if isinstance(error.stderr, bytes) else error.stderr
        return f"{' '.join(map(str, error.cmd))}: {(said or '').strip() or error.returncode}"
    return str(error) or type(error).__name__


def outside(screen: Screen, program: str) -> int:
    """Build what must be built, with the machine's own network, and go into the sandbox."""
    if os.geteuid():
        target = program.removeprefix("handover_lab.").replace(".", "-")
        message = f"only root can make namespaces and start nodes in them: sudo make {target}"
        raise RuntimeError(message)
    if not Path("/dev/net/tun").exists():
        message = "this machine has no /dev/net/tun, which a VM's interface needs: modprobe tun"
        raise RuntimeError(message)
    screen.headline("What is needed")
    with Builds.started(BUILDS) as builds:
        with screen.step("building the guest", "the guest's kernel and initramfs are there"):
            initramfs.build()
        # What this machine lacks is known by now, and need not wait for the first migration.
        builds.check()
        return sandbox.run((*PATIENT, sys.executable, "-m", program, *sys.argv[1:]))


def inside(screen: Screen, demonstration_type: Kind, carrier: Carrier, *, keep: bool) -> int:
    """Make the nodes and perform; the cluster is started when the show asks for it."""
    # What an earlier demonstration proved must not pass for what this one did.
    shutil.rmtree(demonstration.BUILD, ignore_errors=True)
    directory = sandbox.files()
    with contextlib.ExitStack() as undo:
        with screen.step("making two nodes", "two nodes and a router between them are there"):
            network = NodeNetwork.start(directory / "cluster")
            undo.callback(network.stop)

        async def start(network: NodeNetwork) -> Cluster:
            cluster = await start_cluster(screen, network)
            undo.callback(cluster.stop)
            return cluster

        nodes = (demonstration.HOME, demonstration.AWAY)
        timeline = Timeline(time.time_ns(), nodes, screen.console)
        demo = demonstration_type(network, start, screen, directory, timeline, carrier)
        return asyncio.run(demo.perform(keep=keep))


async def start_cluster(screen: Screen, network: NodeNetwork) -> Cluster:
    """Start a cluster on *network* as soon as all that it is made of is there."""
    screen.headline("A cluster of two nodes")
    builds = Builds(BUILDS)
    with screen.step("building the parts of Kubernetes", "the parts of Kubernetes are there"):
        await builds.finished("tools", screen.say)
    # All of it at once, in the loop's own thread: the kernel ends these daemons with the thread
    # that starts them. Whatever else the loop has to see waits meanwhile, and nobody moves the VM.
    with screen.step("starting the cluster", "the cluster stands"):
        cluster = Cluster.on(network, say=screen.say)
    try:
        with screen.step("building the images", "the images are built"):
            await builds.finished("images", screen.say)
        with screen.step("loading the images", "both images are on both nodes"):
            cluster.load(*build.archives())
    except BaseException:
        cluster.stop()
        raise
    return cluster
