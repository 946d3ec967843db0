"""Which interfaces of a guest can keep their address, and with which addresses.

A binding through which the guest has an address of its own on the node's network is followed; one
that hides the guest behind the pod is not.
"""

from typing import Final

from handover_operator.kubevirt.model import PRIMARY_DEVICE, Interface, Pod

_PASST: Final = "puts a MAC of its own on the wire, and no migration with it was proved so far"

_REFUSED: Final = {
    "masquerade": "hides the guest behind the pod's address, which does not move with it",
    "slirp": "hides the guest behind the pod's address, which does not move with it",
    "sriov": "takes the guest's frames past the node's routes",
    # passt answers for the guest with the pod's MAC, which is not the guest's: an endpoint with the
    # guest's would turn the node's neighbor entry into a wrong one.
    "passt": _PASST,
    "passtBinding": _PASST,
    "": "names no binding that is known here",
}


def refusal(interface: Interface) -> str | None:
    """Say why an interface is not followed; None when it is."""
    why = _REFUSED.get(interface.binding)
    if why is None:
        return None
    return f"interface {interface.name} is not followed: {interface.binding or 'it'} {why}"


MOST_ADDRESSES: Final = 16
"""So many an endpoint may name (its schema); one with more would be refused as a whole."""


def addresses(pod: Pod, interface: Interface) -> tuple[str, ...]:
    """Return the addresses that *pod* has on this interface; none before its network exists."""
    return _found(pod, interface)[:MOST_ADDRESSES]


def _found(pod: Pod, interface: Interface) -> tuple[str, ...]:
    if interface.device == PRIMARY_DEVICE:
        return pod.ips
    for attachment in pod.attachments:
        if attachment.device == interface.device:
            return attachment.ips
    # Before KubeVirt 1.0 the devices were numbered: net1, net2.
    wanted = interface.network.rpartition("/")[2]
    for attachment in pod.attachments:
        if wanted and attachment.network.rpartition("/")[2] == wanted:
            return attachment.ips
    return ()
