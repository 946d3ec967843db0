"""Brings a bare machine to where the lab and the tests can run; needs nothing but Python.

Installs what is missing and says why it is wanted: Debian packages (as root), the pinned Python
packages into ``.venv``. Says one clear sentence and stops where it cannot. Idempotent; a second run
does nothing and takes no time.
"""

import argparse
import concurrent.futures
import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
VENV: Final = ROOT / ".venv"
STAMP: Final = VENV / "handover.stamp"
POLICY: Final = Path("/usr/sbin/policy-rc.d")
LOG: Final = ROOT / "build" / "prepare.log"

PACKAGES: Final = {
    "bird2": "speaks BGP on each node and on the router",
    "buildah": "builds the images",
    "busybox-static": "is the guest's user land",
    "containerd": "runs the pods on each node",
    "containernetworking-plugins": "gives pods their network",
    "cpio": "packs the guest's initramfs",
    "frr": "speaks BGP where the tests prove FRR's configuration",
    "gcc": "compiles the guest's echo server and the pause program",
    "graphviz": "draws the state machine in the documentation",
    "iproute2": "shows the kernel's routes to a person",
    "libc6-dev": "has the static C library for both",
    "libnftables1": "is how the agent programs the ARP guard",
    "mmdebstrap": "makes the images' base without a registry",
    "nftables": "shows the guard to a person",
    "openssl": "makes the keys and certificates of the cluster",
    "qemu-system-x86": "runs the guests",
    "runc": "starts the containers",
    "tini": "is the first process of a lab's sandbox",
    "zstd": "unpacks the guest's kernel package",
}


def main() -> int:
    """Prepare this machine; the exit status is 0 when everything is there."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--python-only", action="store_true", help="no Debian packages, no root")
    arguments = parser.parse_args()
    if sys.version_info < (3, 11):  # noqa: UP036  this file runs before anything is checked
        return fail("Python 3.11 or newer is needed; set PYTHON=… to one that is.")
    LOG.parent.mkdir(exist_ok=True)
    packages = {} if arguments.python_only else PACKAGES
    if os.geteuid() != 0:
        # It can only be said what is missing, and all of it at once.
        return install_packages(lacking_venv() | packages) or install_python()
    return install_packages(lacking_venv()) or install_side_by_side(packages)


def install_side_by_side(packages: dict[str, str]) -> int:
    """Install Debian *packages* and Python's: apt and pip wait for the network in turn."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
        python = pool.submit(install_python)
        status = install_packages(packages)
        return status or python.result()


def lacking_venv() -> dict[str, str]:
    """Name the Debian package without which this Python can make no virtual environment.

    Debian splits the standard library: ``venv`` is there, but not the ``ensurepip`` that it needs.
    A Python that is not Debian's own has both, or nobody here can help it.
    """
    if importlib.util.find_spec("ensurepip") or STAMP.exists():
        return {}
    if Path(sys.executable).resolve().parent != Path("/usr/bin"):
        return {}
    major, minor = sys.version_info[:2]
    return {f"python{major}.{minor}-venv": "makes .venv"}


def install_packages(packages: dict[str, str]) -> int:
    """Install those of the Debian *packages* that are missing; the values say why."""
    missing = [name for name in packages if not is_installed(name)]
    if not missing:
        return 0
    for name in missing:
        say(f"missing: {name:<28} {packages[name]}")
    if shutil.which("apt-get") is None:
        return fail("This machine has no apt-get; the lab runs on Debian 12 or newer.")
    if os.geteuid() != 0:
        return fail(f"Only root can install them: sudo apt-get install {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with services_held_back():
        for step, command in (
            ("reading the package lists", ["apt-get", "update"]),
            (
                f"installing {len(missing)} Debian packages",
                ["apt-get", "install", "--yes", "--no-install-recommends", *missing],
            ),
        ):
            if not run(step, command, environment):
                return fail(f"{' '.join(command[:2])} failed; {LOG.relative_to(ROOT)} says why.")
    return 0


def install_python() -> int:
    """Make the virtual environment and fill it with the pinned, hash-checked packages."""
    wanted = hashlib.sha256(
        b"".join((ROOT / name).read_bytes() for name in ("constraints.txt", "pyproject.toml"))
        + os.fsencode(ROOT)
    ).hexdigest()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return 0
    python = str(VENV / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    # What another Python has left there would be mixed with what this one needs, and in a copied
    # checkout the programs would run the other tree's code.
    clear = ["--clear"] if is_foreign() or is_copied() else []
    for step, command in (
        ("making .venv", [sys.executable, "-m", "venv", *clear, str(VENV)]),
        (
            "installing the pinned Python packages",
            # The file names every package, so nothing is left to resolve. pip would try, and ask
            # for a hash of coverage[toml], which no file without extras can carry.
            [*pip, "--no-deps", "--require-hashes", "--requirement", str(ROOT / "constraints.txt")],
        ),
        (
            "installing handover itself",
            [*pip, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)],
        ),
    ):
        if not run(step, command, dict(os.environ)):
            return fail(
                f"{step} failed; {LOG.relative_to(ROOT)} says why"
                " (no package index within reach? no `ensurepip` in this Python?)."
            )
    STAMP.write_text(wanted)
    return 0


def is_foreign() -> bool:
    """Whether another Python than this one made ``.venv``."""
    try:
        settings = (VENV / "pyvenv.cfg").read_text()
    except OSError:
        return False
    version = ".".join(map(str, sys.version_info[:3]))
    home = str(Path(sys.executable).parent)
    return not {f"home = {home}", f"version = {version}"} <= set(settings.splitlines())


def is_copied() -> bool:
    """Whether ``.venv`` was made for another place than this: its scripts name that one."""
    try:
        settings = (VENV / "pyvenv.cfg").read_text()
    except OSError:
        return False
    made = [line for line in settings.splitlines() if line.startswith("command = ")]
    return bool(made) and not made[-1].endswith(f" {VENV}")


def is_installed(package: str) -> bool:
    """Whether dpkg knows *package* as installed."""
    if shutil.which("dpkg-query") is None:
        return False
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout == "installed"


@contextlib.contextmanager
def services_held_back() -> Iterator[None]:
    """Keep packages from starting their services: the lab starts its own, in namespaces.

    The policy file is Debian's interface for that (invoke-rc.d); an existing one stays.
    """
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def run(step: str, command: list[str], environment: dict[str, str]) -> bool:
    """Run one step with its output in the log and a sign of life every five seconds."""
    say(f"{step} …")
    started = time.monotonic()
    with LOG.open("ab") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        while waits(process, 5):
            say(f"  {step}: {time.monotonic() - started:.0f} s")
    return process.returncode == 0


def waits(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether *process* still runs after *seconds*."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def say(text: str) -> None:
    """Print one line at once."""
    print(text, flush=True)


def fail(text: str) -> int:
    """Say what to do, and return the exit status."""
    print(text, file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
