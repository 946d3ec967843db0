"""KubeVirt's objects → values of model.py. What is absent, or in an unknown form, is left out.

KubeVirt's schemas are loose and change with its releases: nothing here may raise.
"""

import contextlib
import hashlib
import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from handover_api.names import ObjectKey
from handover_operator.kinds import Foreign
from handover_operator.kubevirt.model import (
    PRIMARY_DEVICE,
    Attachment,
    Interface,
    MigrationState,
    Pod,
    Vmi,
    Vmim,
    VmimPhase,
)
from handover_operator.roles.labels import share
from handover_operator.roles.parse import RawObject, key

GROUP: Final = "kubevirt.io"
LAUNCHER: Final = "virt-launcher"
MIGRATION_UID: Final = "kubevirt.io/migrationJobUID"
MIGRATION_NAME: Final = "kubevirt.io/migrationJobName"
PROVISIONING: Final = "kubevirt.io/ephemeral-provisioning"
NETWORK_STATUS: Final = "k8s.v1.cni.cncf.io/network-status"

_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_FINAL: Final = frozenset({"Succeeded", "Failed"})
_PHASES: Final = {
    # WaitingForSync and Synchronizing: only between clusters (VEP 24).
    "": VmimPhase.WAITING,
    "WaitingForSync": VmimPhase.WAITING,
    "Synchronizing": VmimPhase.WAITING,
    "Pending": VmimPhase.WAITING,
    "TargetReady": VmimPhase.ARMED,
    "Running": VmimPhase.ARMED,
    "Succeeded": VmimPhase.SUCCEEDED,
    "Failed": VmimPhase.FAILED,
}
_BINDINGS: Final = (
    *("bridge", "masquerade", "sriov", "macvtap"),
    *("passtBinding", "passt", "slirp"),
)


def pod(raw: RawObject) -> Pod | None:
    """Read a pod; None when it is no launcher that a VMI really owns.

    Labels alone prove nothing: attachment pods and whoever may create pods can carry them.
    """
    metadata = raw["metadata"]
    labels, annotations = _strings(metadata.get("labels")), _strings(metadata.get("annotations"))
    owner = _owner(metadata)
    # Hot-plug attachment pods belong to a launcher, not to the VMI; helpers for
    # WaitForFirstConsumer volumes carry a launcher's labels and owner, and this annotation.
    if owner is None or labels.get(GROUP) != LAUNCHER or PROVISIONING in annotations:
        return None
    status, found = _mapping(raw.get("status")), key(raw)
    return Pod(
        key=found,
        uid=metadata["uid"],
        vmi=ObjectKey(found.namespace, owner["name"]),
        vmi_uid=owner["uid"],
        node=_text(_mapping(raw.get("spec")).get("nodeName")) or None,
        ips=_addresses(each.get("ip") for each in _mappings(status.get("podIPs"))),
        labels=share(labels),
        migration_uid=labels.get(MIGRATION_UID),
        migration_name=annotations.get(MIGRATION_NAME),
        is_final=_text(status.get("phase")) in _FINAL,
        attachments=tuple(_attachments(annotations.get(NETWORK_STATUS, ""))),
    )


def vmi(raw: RawObject) -> Vmi:
    """Read a VirtualMachineInstance."""
    status = _mapping(raw.get("status"))
    state = _mapping(status.get("migrationState"))
    found = None
    # Spelled so here, and migrationUID in the two states below it, which local migrations lack.
    if uid := _text(state.get("migrationUid")):
        found = MigrationState(
            migration_uid=uid,
            source_pod=_text(state.get("sourcePod")),
            target_node=_text(state.get("targetNode")),
        )
    return Vmi(
        key=key(raw),
        uid=raw["metadata"]["uid"],
        node=_text(status.get("nodeName")) or None,
        is_running=status.get("phase") == "Running",
        interfaces=tuple(_interfaces(_mapping(raw.get("spec")), status)),
        migration_state=found,
    )


def vmim(raw: RawObject) -> Vmim:
    """Read a VirtualMachineInstanceMigration; an unknown phase counts as under way."""
    found, status = key(raw), _mapping(raw.get("status"))
    return Vmim(
        key=found,
        uid=raw["metadata"]["uid"],
        vmi=ObjectKey(found.namespace, _text(_mapping(raw.get("spec")).get("vmiName"))),
        phase=_PHASES.get(_text(status.get("phase")), VmimPhase.SCHEDULING),
        # Until its end a VMIM's own migrationState holds the source pod alone.
        source_pod=_text(_mapping(status.get("migrationState")).get("sourcePod")) or None,
    )


def read(kind: Foreign, raw: RawObject) -> Pod | Vmi | Vmim | None:
    """Read an object of one of the three kinds."""
    match kind:
        case Foreign.POD:
            return pod(raw)
        case Foreign.VMI:
            return vmi(raw)
        case _:
            return vmim(raw)


def _owner(metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the VMI that controls a pod."""
    for owner in _mappings(metadata.get("ownerReferences")):
        # One owner at most is the controller. KubeVirt's version may change, its group does not.
        is_vmi = owner.get("kind") == Foreign.VMI
        if is_vmi and owner.get("controller") and owner["apiVersion"].startswith(f"{GROUP}/"):
            return owner
    return None


def _interfaces(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[Interface]:
    """Join the VMI's interfaces, networks and what is reported of them."""
    networks = {_text(each.get("name")): each for each in _mappings(spec.get("networks"))}
    reported = {_text(each.get("name")): each for each in _mappings(status.get("interfaces"))}
    devices = _mapping(_mapping(spec.get("domain")).get("devices"))
    for each in _mappings(devices.get("interfaces")):
        name = _text(each.get("name"))
        # A hot-unplugged interface stays in the spec, marked so.
        if name not in networks or each.get("state") == "absent":
            continue
        multus = _mapping(networks[name].get("multus"))
        is_primary = not multus or bool(multus.get("default"))
        seen = reported.get(name, {})
        device = _text(seen.get("podInterfaceName")) or _device(name)
        yield Interface(
            name=name,
            binding=_binding(each),
            device=PRIMARY_DEVICE if is_primary else device,
            # Without a macAddress in the spec it is known only once the guest runs.
            mac=_mac(each.get("macAddress")) or _mac(seen.get("mac")),
            network="" if is_primary else _text(multus.get("networkName")),
        )


def _device(name: str) -> str:
    """Return how KubeVirt names the pod's interface of a network (since 1.0)."""
    # 14 characters in all: an interface's name has 15 at most (IFNAMSIZ, linux/if.h).
    return f"pod{hashlib.sha256(name.encode()).hexdigest()[:11]}"


def _binding(interface: Mapping[str, Any]) -> str:
    """Return the name of the binding: a core one, or that of a plug-in."""
    plugin = interface.get("binding")
    if plugin:
        return _text(_mapping(plugin).get("name"))
    return next((binding for binding in _BINDINGS if interface.get(binding) is not None), "")


def _attachments(annotation: str) -> Iterator[Attachment]:
    """Read network-status: JSON that CNI plug-ins write."""
    try:
        # Of the network-plumbing working group's de-facto standard; absent without Multus.
        entries = json.loads(annotation) if annotation else []
    except ValueError:
        return
    for entry in _mappings(entries):
        ips = entry.get("ips")
        yield Attachment(
            network=str(entry.get("name") or ""),
            device=str(entry.get("interface") or ""),
            ips=_addresses(ips if isinstance(ips, list) else ()),
        )


def _mac(text: Any) -> str | None:  # noqa: ANN401  whatever JSON holds
    """Return a MAC address as WorkloadEndpoints write it; KubeVirt takes dashes as well."""
    spelled = str(text or "").replace("-", ":").lower()
    return spelled if _MAC.fullmatch(spelled) else None


def _addresses(texts: Any) -> tuple[str, ...]:  # noqa: ANN401  whatever JSON holds
    found = []
    for text in texts:
        with contextlib.suppress(ValueError):
            found.append(str(ipaddress.ip_address(str(text))))
    return tuple(dict.fromkeys(found))


def _text(value: Any) -> str:  # noqa: ANN401  whatever JSON holds
    return value if isinstance(value, str) else ""


def _mapping(value: Any) -> Mapping[str, Any]:  # noqa: ANN401  whatever JSON holds
    return value if isinstance(value, dict) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:  # noqa: ANN401  whatever JSON holds
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _strings(value: Any) -> dict[str, str]:  # noqa: ANN401  whatever JSON holds
    return {key: each for key, each in _mapping(value).items() if isinstance(each, str)}
