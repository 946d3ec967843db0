"""The first sight of an endpoint: from what is found to a machine.

This serves the agent's start and an endpoint that is new to a running agent alike. Kernel and
guest go before the API's status, and status alone never elevates.
"""

import datetime as dt
from dataclasses import dataclass

from handover_api.assignment import Assignment
from handover_api.workloadendpoint import State, WorkloadEndpointStatus
from handover_nodeagent.fsm import Step
from handover_nodeagent.machine import Machine, RouteLevel


@dataclass(frozen=True, slots=True)
class Remembered:
    """What survives the agent in ``/run/handover``; of an asking, the state before it."""

    state: State
    since: dt.datetime
    uid: str | None = None
    awaiting: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of an endpoint at first sight.

    ``routes``: the highest level at which the kernel has one of our routes for it, on its own
    interface. ``await_role`` is the spec's. ``episode`` is above any that a machine of this key
    ever had.
    """

    assignment: Assignment
    routes: RouteLevel
    last: Remembered | None
    await_role: bool
    episode: int


def remember(machine: Machine) -> Remembered:
    """Return what the next start needs of *machine*."""
    raise NotImplementedError


def from_status(status: WorkloadEndpointStatus) -> Remembered | None:
    """Return the second-best memory, for when ``/run/handover`` has none."""
    raise NotImplementedError


def resume(found: Found, now: dt.datetime) -> Step:
    """Return the machine to start with and its first commands."""
    raise NotImplementedError
