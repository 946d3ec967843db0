"""Names that the API, the operator, the agents and the chart agree on."""

from typing import Final, NamedTuple

GROUP: Final = "handover.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

LIVE_MIGRATIONS: Final = "livemigrations"
WORKLOAD_ENDPOINTS: Final = "workloadendpoints"
CONFIGURATIONS: Final = "handoverconfigurations"

# The role annotations, which assignment.py reads and writes as one value. They are annotations, not
# status, because two programs write the endpoint: the operator these, the agent its status.
ROLE: Final = f"{GROUP}/role"
MIGRATION: Final = f"{GROUP}/migration"
MIGRATION_UID: Final = f"{GROUP}/migration-uid"
ARMED: Final = f"{GROUP}/armed"
OUTCOME: Final = f"{GROUP}/outcome"
ENDED_ROLE: Final = f"{GROUP}/ended-role"

# Whom the endpoint's agent may believe without the API, and which of them has the guest: peer.py.
PEER: Final = f"{GROUP}/peer"
PEER_LIVE: Final = f"{GROUP}/peer-live"

ADDRESS_SHARED: Final = f"{GROUP}/address-shared"
"""On an endpoint, by the operator: which other node serves an address of it, too."""

# On what the KubeVirt adapter has made: that it is the adapter's, and what of the VM it cannot
# follow.
ADAPTER: Final = f"{GROUP}/adapter"
NOT_FOLLOWED: Final = f"{GROUP}/not-followed"

UNINSTALL: Final = f"{GROUP}/uninstall"
"""On HandoverConfiguration ``default``: another value asks the agents to hand back."""

PAUSED: Final = f"{GROUP}/paused"
"""A person's brake, on HandoverConfiguration ``default`` or on a namespace; no apply touches it."""

# The only names of a HandoverConfiguration; the second one is followed by the node's.
DEFAULT_CONFIGURATION: Final = "default"
NODE_CONFIGURATION_PREFIX: Final = "node."

OPERATOR_FIELD_MANAGER: Final = "handover-operator"
NODEAGENT_FIELD_MANAGER: Final = "handover-nodeagent"


class ObjectKey(NamedTuple):
    """Identifies one namespaced object of a kind; sorts by namespace, then name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
