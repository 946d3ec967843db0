"""Finds the API server and who we are to it: KUBECONFIG, service account, ~/.kube/config.

Files are read here and nowhere else, also those that somebody else replaces from time to time.
"""

import contextlib
import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from handover_nodeagent.api import access
from handover_nodeagent.api.access import Access, Pem, Unconfigured

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class TokenFile:
    """A token that somebody else replaces from time to time (the kubelet, hourly)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._token = ""

    def read(self) -> str:
        """Return the token; the file is read when it is another one. Raises OSError."""
        # The kubelet puts another file in its place, so that the inode differs whatever the clock
        # says.
        found = self._path.stat()
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if seen != self._seen:
            self._token = self._path.read_text(encoding="ascii", errors="replace").strip()
            self._seen = seen
        return self._token

    def forget(self) -> None:
        """Read the file at the next occasion, whatever it looks like."""
        self._seen = None


def find(
    environment: Mapping[str, str],
    *,
    service_account: Path = SERVICE_ACCOUNT,
    home: Path | None = None,
) -> Access:
    """Find the API server: KUBECONFIG, else the pod's service account, else ~/.kube/config.

    Raises Unconfigured.
    """
    if environment.get("KUBECONFIG"):
        return _from_kubeconfig(
            [Path(part) for part in environment["KUBECONFIG"].split(":") if part]
        )
    # The kubelet sets it in each pod.
    if environment.get("KUBERNETES_SERVICE_HOST"):
        return _from_service_account(environment, service_account)
    # A person at a laptop, who tries the agent without a pod.
    path = (home or Path.home()) / ".kube" / "config"
    if path.exists():
        return _from_kubeconfig([path])
    message = "no way to an API server: run in a pod with a service account, or set KUBECONFIG"
    raise Unconfigured(message)


def tls(found: Access) -> ssl.SSLContext:
    """Read the certificates. Raises OSError (ssl.SSLError is one) for unusable ones."""
    if found.authority is None:
        context = ssl.create_default_context()
    else:
        with lend(found.authority) as path:
            context = ssl.create_default_context(cafile=path)
    if found.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if found.certificate is not None:
        # A client certificate and its key may stand in one PEM.
        key = found.key or found.certificate
        with lend(found.certificate) as certificate_path, lend(key) as key_path:
            context.load_cert_chain(certificate_path, key_path)
    return context


@contextlib.contextmanager
def lend(pem: Pem) -> Iterator[str]:
    """Lend a path to it; what was given as text never touches a disk."""
    if pem.path is not None:
        yield str(pem.path)
        return
    # OpenSSL's load_cert_chain takes only paths; this one leads to memory of this process.
    descriptor = os.memfd_create("handover-pem")
    try:
        os.write(descriptor, pem.text)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _from_service_account(environment: Mapping[str, str], directory: Path) -> Access:
    for name in (access.TOKEN, access.AUTHORITY):
        if not os.access(directory / name, os.R_OK):
            message = (
                f"cannot read {directory / name}: the pod needs a service account"
                " (automountServiceAccountToken), or set KUBECONFIG"
            )
            raise Unconfigured(message)
    return access.of_service_account(environment, directory)


def _from_kubeconfig(paths: Sequence[Path]) -> Access:
    documents = [access.document(path, _read(path)) for path in paths if path.exists()]
    if not documents:
        message = f"KUBECONFIG: there is no file {':'.join(map(str, paths))}"
        raise Unconfigured(message)
    return access.of_kubeconfig(documents)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"cannot read the kubeconfig {path}: {error.strerror}"
        raise Unconfigured(message) from error
