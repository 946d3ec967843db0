"""An etcd that is restored from a backup: all versions are lower than those before."""

import copy
from collections.abc import Callable
from typing import Any

from handover_operator.kinds import Foreign
from handover_operator.kube.standby import Standby

Build = Callable[..., dict[str, Any]]


def kept(world: Any) -> tuple[dict[Any, Any], int]:
    """Make a backup while everything is known, by lists, too."""
    world.relist_all()
    return copy.deepcopy(world.stored), world.version


def restored(world: Any, backup: tuple[dict[Any, Any], int]) -> Any:
    """Put a backup back; each watch begins with a list."""
    world.relist_all()
    world.stored, world.version = copy.deepcopy(backup[0]), backup[1]
    return world.relist_all()


def test_what_comes_after_a_restored_backup_is_news_of_each_kind(
    running: Any, pod: Build, vmi: Build, vmim: Build
) -> None:
    backup = kept(running)
    for number in range(20):  # each has a version that the backup's history comes to later
        running.apply(
            pod("p1", "a", ("10.0.0.1",), labels={"count": str(number)}),
            vmim("later", phase="Scheduling", sourcePod="p1"),
            vmi(node="a", metadata={"labels": {"count": str(number)}}),
        )
    assert running.said() == {"p1": "source of later"}
    restored(running, backup)
    # Kinds are listed one after the other: what is gone may be known a moment longer.
    assert running.said()["p1"] in {"-", "source of later Aborted"}
    assert running.migration("later") is None
    running.apply(pod("p1", "a", ("10.0.0.2",)))
    assert running.endpoint("p1")["spec"]["ips"] == ["10.0.0.2"]
    running.apply(vmim("after", phase="Scheduling", sourcePod="p1"))
    assert running.said() == {"p1": "source of after"}
    mac = "02:7a:31:00:00:99"
    interfaces = [{"name": "default", "bridge": {}, "macAddress": mac}]
    running.apply(vmi(node="a", interfaces=interfaces))
    assert running.endpoint("p1")["spec"]["mac"] == mac


def test_a_replica_that_does_not_lead_takes_it_in_too(running: Any, pod: Build) -> None:
    backup = kept(running)
    for number in range(9):
        running.apply(pod("p1", "a", ("10.0.0.1",), labels={"count": str(number)}))
    running.operator.stand_by(Standby("b"))
    restored(running, backup)
    raw = running.stored[Foreign.POD, running.key("p1")]
    assert running.operator.adapter.endpoint(running.key("p1")).labels == raw["metadata"]["labels"]
    running.operator.stand_by(None)
    running.apply(pod("p1", "a", ("10.0.0.2",)))
    assert running.endpoint("p1")["spec"]["ips"] == ["10.0.0.2"]
