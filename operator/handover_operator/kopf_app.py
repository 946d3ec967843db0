"""Kopf's handlers: what it observes of our kinds goes on to the controller.

Only ``on.event`` is used, which leaves no mark on objects: the other handlers of Kopf write an
annotation, and those of deletions need a finalizer (https://github.com/nolar/kopf/issues/701).
What is known lives in our own cache: ``@kopf.index`` starts in quadratic time, 1,000 objects in 3 s
and 4,000 in 81 s. (To report.)

There is no ``on.probe``: Kopf's liveness endpoint ends with Kopf, which may have to begin anew
for as long as a kind is not there; /healthz is the whole process's.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Final

import kopf

from handover_api import names
from handover_operator import kopf_runtime
from handover_operator.kinds import Kind
from handover_operator.kopf_runtime import Memo
from handover_operator.kube import requests, watch

OURS: Final = (names.GROUP, names.VERSION)


class Backoffs:
    """Seconds between two attempts of a request, without an end: an outage is no reason to die.

    They stay short: while a watch is away a guest may move, and those who ask are few.
    """

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.1, 0.2, 0.5, 1), itertools.repeat(2))


@kopf.on.startup(id="configure")
async def configure(settings: kopf.OperatorSettings, **_: object) -> None:
    """Choose what Kopf does for us: watch, and nothing else."""
    # It would list the CustomResourceDefinitions of the whole cluster, and need a right for that.
    settings.scanning.disabled = True
    settings.posting.enabled = False
    # Ten minutes after it has ended, for whatever reason, Kopf would kill the whole process, also
    # where it is embedded. (To ask for: that an embedded one has no such timeout by default.)
    settings.process.ultimate_exiting_timeout = None
    # A task for every object of a list would otherwise live for 5 s: 90 MB with 10,000 of them.
    settings.queueing.idle_timeout = 0.5
    settings.networking.error_backoffs = Backoffs()
    settings.networking.connect_timeout = 10
    settings.watching.inactivity_timeout = watch.SILENCE
    settings.watching.chunk_size = requests.PAGE


@kopf.on.login(id="login")
async def login(memo: Memo, **_: object) -> kopf.AiohttpSession:
    """Use the place and the credentials that our own writes use."""
    return await memo.login()


@kopf.on.cleanup(id="close")
async def close(memo: Memo, **_: object) -> None:
    """Close what was opened for it."""
    await memo.close()


@kopf.on.event(*OURS, names.LIVE_MIGRATIONS, id="observe-livemigrations")
async def observe_migration(event: kopf.RawEvent, memo: Memo, **_: object) -> None:
    """Take in a version of a LiveMigration, or its end."""
    memo.take(Kind.MIGRATION, event)


@kopf.on.event(*OURS, names.WORKLOAD_ENDPOINTS, id="observe-workloadendpoints")
async def observe_endpoint(event: kopf.RawEvent, memo: Memo, **_: object) -> None:
    """Take in a version of a WorkloadEndpoint, or its end."""
    memo.take(Kind.ENDPOINT, event)


@kopf.on.event(*OURS, names.CONFIGURATIONS, id="observe-handoverconfigurations")
async def observe_configuration(event: kopf.RawEvent, memo: Memo, **_: object) -> None:
    """Take in a version of a HandoverConfiguration, or its end."""
    memo.take(Kind.CONFIGURATION, event)


async def run(memo: Memo, take_signals: Callable[[], None]) -> None:
    """Run the handlers above until cancelled, or until Kopf ends: raise what it ended of."""
    await kopf_runtime.run(memo, take_signals)
