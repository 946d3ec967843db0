"""The kinds of objects that the operator watches: ours, those of KubeVirt's world, namespaces."""

import enum
from typing import Final

from handover_api import names

KUBEVIRT: Final = "kubevirt.io/v1"


class Kind(enum.StrEnum):
    """A kind by its name in manifests; ``plural`` is its name in paths."""

    MIGRATION = "LiveMigration"
    ENDPOINT = "WorkloadEndpoint"
    CONFIGURATION = "HandoverConfiguration"

    @property
    def plural(self) -> str:
        """The kind as the API's paths spell it."""
        return _PLURALS[self]

    @property
    def api_version(self) -> str:
        """The group and version, as manifests write it."""
        return names.API_VERSION


class Foreign(enum.StrEnum):
    """A kind that is not ours: the KubeVirt adapter reads it and never writes it."""

    POD = "Pod"
    VMI = "VirtualMachineInstance"
    VMIM = "VirtualMachineInstanceMigration"

    @property
    def plural(self) -> str:
        """The kind as the API's paths spell it."""
        # True of these three. Another one may need a table, as our own kinds have.
        return f"{self.value.lower()}s"

    @property
    def api_version(self) -> str:
        """The group and version, as manifests write it."""
        return "v1" if self is Foreign.POD else KUBEVIRT

    @property
    def selector(self) -> str:
        """The labels by which the few objects that matter are told from all others."""
        # KubeVirt labels its launcher pods so: without this every pod of the cluster would be
        # listed, watched and read.
        return "kubevirt.io=virt-launcher" if self is Foreign.POD else ""


class Plain(enum.StrEnum):
    """A kind of Kubernetes' own, of whose objects only the metadata are read."""

    NAMESPACE = "Namespace"

    @property
    def plural(self) -> str:
        """The kind as the API's paths spell it."""
        return f"{self.value.lower()}s"

    @property
    def api_version(self) -> str:
        """The group and version, as manifests write it."""
        return "v1"


AnyKind = Kind | Foreign
"""A kind of whose objects more than the metadata are read."""

Watched = AnyKind | Plain
"""A kind that is listed and watched."""

_PLURALS: Final = {
    Kind.MIGRATION: names.LIVE_MIGRATIONS,
    Kind.ENDPOINT: names.WORKLOAD_ENDPOINTS,
    Kind.CONFIGURATION: names.CONFIGURATIONS,
}


def collection(kind: Watched, namespace: str = "") -> str:
    """Return the path of all objects of a kind, or of those in one namespace."""
    # Kubernetes' core group has no name and a root of its own; all others stand below /apis.
    root = "api" if kind.api_version == "v1" else "apis"
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"/{root}/{kind.api_version}{scope}/{kind.plural}"
