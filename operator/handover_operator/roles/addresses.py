"""Whether the guest can keep its addresses. If not, nothing can follow it: the network has others.

Overlaps with what KubeVirt's adapter notes of interfaces that it does not follow at all.
"""

from collections.abc import Iterable, Sequence

from handover_api import names
from handover_api.conditions import MigrationReason
from handover_api.livemigration import LiveMigration
from handover_api.wording import enumerate_few
from handover_operator.roles.model import Address, Endpoint


def obstacle(
    migration: LiveMigration, sources: Sequence[Endpoint], targets: Sequence[Endpoint]
) -> tuple[MigrationReason, str] | None:
    """Return why the network cannot follow; None as long as nothing speaks against it.

    A target may become known one interface after the other: what is missing there counts only
    when it has as many endpoints as the source.
    """
    if sources and targets:
        before, after = _union(sources), _union(targets)
        if after - before or (len(sources) == len(targets) and before - after):
            message = (
                f"the source has {_listed(before)}, the target {_listed(after)}: the CNI does not"
                " keep the addresses, and nothing can follow"
            )
            return MigrationReason.ADDRESS_CHANGED, message
    note = migration.metadata.annotations.get(names.NOT_FOLLOWED)
    return None if note is None else (MigrationReason.NOT_FOLLOWED, note)


def _union(endpoints: Iterable[Endpoint]) -> set[Address]:
    return {ip for endpoint in endpoints for ip in endpoint.ips}


def _listed(ips: Iterable[Address]) -> str:
    ips = list(ips)
    return enumerate_few(sorted(str(ip) for ip in ips), len(ips))
