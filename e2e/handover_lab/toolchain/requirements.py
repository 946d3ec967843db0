"""What the machine must have before a node can live on it, each with a sentence for its absence."""

import os
import shutil
from pathlib import Path
from typing import Final

from handover_lab.cluster import nodegroup

# Some root shells lack the system directories; runc and nft live there.
PATH: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
KERNEL_LOG: Final = Path("/dev/kmsg")
PROGRAMS: Final = {
    "containerd": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "ctr": "containerd",
    "gcc": "gcc libc6-dev",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "runc": "runc",
    "setpriv": "util-linux",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "/usr/lib/cni/host-local": "containernetworking-plugins",
    "/usr/lib/cni/loopback": "containernetworking-plugins",
}


class RequirementError(RuntimeError):
    """Something is missing; the text says what to do."""


class NoSandboxError(RequirementError):
    """What is missing is the sandbox around us."""


def check() -> str:
    """Look at everything and return the id of the sandbox that we are in.

    Raises:
        NoSandboxError: we are not in one.
        RequirementError: something else is missing.
    """
    sandbox = os.environ.get("HANDOVER_SANDBOX", "")
    if not sandbox:
        message = (
            "A cluster lives in a sandbox, so that nothing of it can be left behind:"
            " run python -m handover_lab.sandbox -- COMMAND."
        )
        raise NoSandboxError(message)
    for program, package in PROGRAMS.items():
        if shutil.which(program, path=PATH) is None:
            message = f"A node needs {program}: run make prepare, or apt-get install {package}."
            raise RequirementError(message)
    if not KERNEL_LOG.exists():
        message = f"A kubelet reads {KERNEL_LOG}, which this machine hides: it cannot run here."
        raise RequirementError(message)
    if missing := nodegroup.missing():
        message = (
            f"The kernel offers no control groups for {', '.join(sorted(missing))} at"
            " /sys/fs/cgroup: a kubelet cannot run on this machine."
        )
        raise RequirementError(message)
    return sandbox
