"""Where the API server is and who we are to it: KUBECONFIG, service account, ~/.kube/config.

What a person has to mend is an ``Unconfigured`` with a sentence that says how.
"""

import base64
import binascii
import contextlib
import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from handover_nodeagent.network.model import IPAddress

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
UNSUPPORTED: Final = ("exec", "auth-provider", "username", "proxy-url")
"""What kubeconfig files may ask for and an agent does not do: to go on without would be to ask
another server, or in another name."""

Entry = Mapping[str, Any]
"""A part of a kubeconfig, which may be anything that YAML can say."""


class Unconfigured(Exception):  # noqa: N818  tells a person what to do
    """There is no usable way to an API server; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Pem:
    """Certificates or a key: in a file, which may be replaced, or as they are."""

    path: Path | None = None
    text: bytes = b""

    @contextlib.contextmanager
    def as_path(self) -> Iterator[str]:
        """Lend a path to it; what was given as text never touches a disk."""
        if self.path is not None:
            yield str(self.path)
            return
        # OpenSSL's load_cert_chain takes only paths; this one leads to memory of this process.
        descriptor = os.memfd_create("handover-pem")
        try:
            os.write(descriptor, self.text)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Access:
    """An API server and the credentials for it; ``token_file`` goes before ``token``."""

    url: str
    authority: Pem | None = None
    certificate: Pem | None = None
    key: Pem | None = None
    token: str = ""
    token_file: Path | None = None
    server_name: str | None = None
    insecure: bool = False

    def tls(self) -> ssl.SSLContext:
        """Read the certificates. Raises OSError (ssl.SSLError is one) for unusable ones."""
        if self.authority is None:
            context = ssl.create_default_context()
        else:
            with self.authority.as_path() as path:
                context = ssl.create_default_context(cafile=path)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate is not None:
            # A client certificate and its key may stand in one PEM.
            key = self.key or self.certificate
            with self.certificate.as_path() as certificate_path, key.as_path() as key_path:
                context.load_cert_chain(certificate_path, key_path)
        return context


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


def addresses(access: Access, environment: Mapping[str, str]) -> frozenset[IPAddress]:
    """Return the addresses by which the API server is known here, names not looked up.

    Its Service's too, also where a kubeconfig names another way.
    """
    hosts = (urlsplit(access.url).hostname, environment.get("KUBERNETES_SERVICE_HOST"))
    found: set[IPAddress] = set()
    for host in hosts:
        with contextlib.suppress(ValueError):
            found.add(ip_address(host or ""))
    return frozenset(found)


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
        return from_kubeconfig(
            [Path(part) for part in environment["KUBECONFIG"].split(":") if part]
        )
    # The kubelet sets it in each pod.
    if environment.get("KUBERNETES_SERVICE_HOST"):
        return _from_service_account(environment, service_account)
    # A person at a laptop, who tries the agent without a pod.
    path = (home or Path.home()) / ".kube" / "config"
    if path.exists():
        return from_kubeconfig([path])
    message = "no way to an API server: run in a pod with a service account, or set KUBECONFIG"
    raise Unconfigured(message)


def _from_service_account(environment: Mapping[str, str], directory: Path) -> Access:
    host = environment["KUBERNETES_SERVICE_HOST"]
    port = environment.get("KUBERNETES_SERVICE_PORT") or "443"
    for name in ("token", "ca.crt"):
        if not os.access(directory / name, os.R_OK):
            message = (
                f"cannot read {directory / name}: the pod needs a service account"
                " (automountServiceAccountToken), or set KUBECONFIG"
            )
            raise Unconfigured(message)
    return Access(
        # The address of an IPv6 Service comes without the brackets that a URL has.
        url=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        authority=Pem(directory / "ca.crt"),
        token_file=directory / "token",
    )


def from_kubeconfig(paths: list[Path]) -> Access:
    """Read the current context; of several files the first that names a thing counts.

    Raises Unconfigured.
    """
    documents = [(path, _document(path)) for path in paths if path.exists()]
    if not documents:
        message = f"KUBECONFIG: there is no file {':'.join(map(str, paths))}"
        raise Unconfigured(message)
    current = next((found for _, read in documents if (found := read.get("current-context"))), "")
    if not current:
        message = f"{documents[0][0]} has no current-context: kubectl config use-context NAME"
        raise Unconfigured(message)
    _, context = _entry(documents, "context", current)
    cluster_at, cluster = _entry(documents, "cluster", context.get("cluster", ""))
    user_at, user = _entry(documents, "user", context.get("user", ""))
    for wanted in UNSUPPORTED:
        if wanted in cluster or wanted in user:
            message = (
                f"{user_at}: the agent does not support {wanted!r}; use a token, a tokenFile or a"
                " client certificate"
            )
            raise Unconfigured(message)
    # Relative paths in a kubeconfig start at its own folder, as in kubectl.
    return _access(cluster_at.parent, cluster, user_at.parent, user)


def _access(cluster_at: Path, cluster: Entry, user_at: Path, user: Entry) -> Access:
    url = str(cluster.get("server", "")).rstrip("/")
    if not url.startswith(("https://", "http://")):
        message = f"the kubeconfig's cluster has no usable server: {url!r}"
        raise Unconfigured(message)
    token_file = user.get("tokenFile")
    return Access(
        url=url,
        authority=_pem(cluster_at, cluster, "certificate-authority"),
        certificate=_pem(user_at, user, "client-certificate"),
        key=_pem(user_at, user, "client-key"),
        token=str(user.get("token", "")),
        token_file=user_at / str(token_file) if token_file else None,
        server_name=cluster.get("tls-server-name"),
        insecure=cluster.get("insecure-skip-tls-verify") is True,
    )


def _pem(directory: Path, entry: Entry, name: str) -> Pem | None:
    """Read what *name* points at."""
    # Text goes before a path where there are both, as in kubectl.
    if text := entry.get(f"{name}-data"):
        try:
            return Pem(text=base64.b64decode(text, validate=True))
        except (binascii.Error, TypeError, ValueError):
            message = f"the kubeconfig's {name}-data is not base64"
            raise Unconfigured(message) from None
    path = entry.get(name)
    return Pem(directory / str(path)) if path else None


def _entry(documents: list[tuple[Path, Entry]], kind: str, name: str) -> tuple[Path, Entry]:
    for path, document in documents:
        entries = document.get(f"{kind}s")
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and entry.get("name") == name:
                found = entry.get(kind)
                return path, found if isinstance(found, dict) else {}
    message = f"{documents[0][0]} has no {kind} {name!r}"
    raise Unconfigured(message)


def _document(path: Path) -> Entry:
    import yaml  # noqa: PLC0415  a pod has a service account and never pays for it

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"cannot read the kubeconfig {path}: {error.strerror}"
        raise Unconfigured(message) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        place = getattr(error, "problem_mark", None)
        line = f" (line {place.line + 1})" if place else ""
        message = f"the kubeconfig {path} is no YAML{line}"
        raise Unconfigured(message) from error
    if not isinstance(document, dict):
        message = f"{path} is no kubeconfig"
        raise Unconfigured(message)
    return document
