"""The objects of the operator's bench, by their numbers: two endpoints make a migration."""

from typing import Any, Final

from handover_api import names
from handover_lab.bench.operator.client import Key

NAMESPACES: Final = 10
WHEN: Final = "2026-11-24T12:00:00Z"


def namespace(number: int) -> str:
    """Return where the endpoint of a number lives; both of a migration live together."""
    return f"bench-{number // 2 % NAMESPACES}"


def endpoint(number: int) -> dict[str, Any]:
    """Compose an endpoint with the labels that a VM's pod has."""
    labels = {
        "kubevirt.io": "virt-launcher",
        "kubevirt.io/created-by": f"00000000-0000-4000-8000-{number:012d}",
        "kubevirt.io/nodeName": f"node-{number % 50}",
        "vm.kubevirt.io/name": f"vm-{number // 2}",
        "app": f"app-{number % 7}",
        "tier": f"tier-{number % 3}",
    }
    # Both of a migration have the same address, or the network could not follow.
    guest = number // 2
    address = ".".join(map(str, (10, guest >> 16 & 255, guest >> 8 & 255, guest & 255)))
    return {
        "apiVersion": names.API_VERSION,
        "kind": "WorkloadEndpoint",
        "metadata": {"name": f"e{number}", "namespace": namespace(number), "labels": labels},
        "spec": {
            "node": f"node-{number % 50}",
            "workload": f"launcher-{number}",
            "mac": "02:00:00:00:00:01",
            "ips": [address],
        },
    }


def migration(number: int) -> dict[str, Any]:
    """Compose the migration of two endpoints, by workload and by selector."""
    source, target = 2 * number, 2 * number + 1
    created_by = f"00000000-0000-4000-8000-{target:012d}"
    return {
        "apiVersion": names.API_VERSION,
        "kind": "LiveMigration",
        "metadata": {"name": f"m{number}", "namespace": namespace(source)},
        "spec": {
            "source": {"workload": {"name": f"launcher-{source}"}},
            "target": {"selector": {"matchLabels": {"kubevirt.io/created-by": created_by}}},
        },
    }


def endpoint_key(number: int) -> Key:
    """Return the key of an endpoint."""
    return ("WorkloadEndpoint", namespace(number), f"e{number}")


def keys(number: int) -> tuple[Key, Key, Key]:
    """Return the keys of a migration, its source and its target."""
    migration = ("LiveMigration", namespace(2 * number), f"m{number}")
    return migration, endpoint_key(2 * number), endpoint_key(2 * number + 1)


def agent_status(state: str, uid: str, address: str) -> dict[str, Any]:
    """Compose what an agent reports."""
    route = {"address": address, "metric": 1024, "table": 254, "protocol": 88}
    listening = {
        "type": "Listening",
        "status": "True" if state == "Target" else "False",
        "reason": "Listening" if state == "Target" else "NotNeeded",
        "message": "",
        "lastTransitionTime": WHEN,
    }
    status: dict[str, Any] = {
        "state": state,
        "migrationUID": uid,
        "routes": [route] if state in {"Base", "Live", "TimeWait"} else [],
        "conditions": [listening],
    }
    if state == "Live":
        status["lastCutover"] = {
            "signal": "RARP",
            "announcementToRouteMicroseconds": 210,
            "time": "2026-11-24T12:00:00.000123Z",
            "migrationUID": uid,
        }
    return {"status": status}
