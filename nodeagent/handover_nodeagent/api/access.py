"""PURE: where the API server is and who we are to it, as a kubeconfig or a pod's surroundings say.

What a person has to mend is an ``Unconfigured`` with a sentence that says how.
"""

import base64
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from handover_nodeagent.network.model import IPAddress

TOKEN: Final = "token"  # noqa: S105  the name of a file
AUTHORITY: Final = "ca.crt"
"""With the token the files of a service account's volume (kubelet, projected volumes)."""
UNSUPPORTED: Final = ("exec", "auth-provider", "username", "proxy-url")
"""What kubeconfig files may ask for and an agent does not do: to go on without would be to ask
another server, or in another name."""

Entry = Mapping[str, object]
"""A part of a kubeconfig, which may be anything that YAML can say."""


class Unconfigured(Exception):  # noqa: N818  tells a person what to do
    """There is no usable way to an API server; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Pem:
    """Certificates or a key: in a file, which may be replaced, or as they are."""

    path: Path | None = None
    text: bytes = b""


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


class Document(NamedTuple):
    """What one file of a kubeconfig says, and where it is: its relative paths start there."""

    path: Path
    content: Entry


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


def of_service_account(environment: Mapping[str, str], directory: Path) -> Access:
    """Return what a pod's *environment* and its service account's *directory* say."""
    host = environment["KUBERNETES_SERVICE_HOST"]
    port = environment.get("KUBERNETES_SERVICE_PORT") or "443"
    return Access(
        # The address of an IPv6 Service comes without the brackets that a URL has.
        url=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        authority=Pem(directory / AUTHORITY),
        token_file=directory / TOKEN,
    )


def document(path: Path, text: bytes) -> Document:
    """Read what the file at *path* says. Raises Unconfigured."""
    import yaml  # noqa: PLC0415  a pod has a service account and never pays for it

    try:
        content = yaml.safe_load(text.decode())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        place = getattr(error, "problem_mark", None)
        line = f" (line {place.line + 1})" if place else ""
        message = f"the kubeconfig {path} is no YAML{line}"
        raise Unconfigured(message) from error
    if not isinstance(content, dict):
        message = f"{path} is no kubeconfig"
        raise Unconfigured(message)
    return Document(path, content)


def of_kubeconfig(documents: Sequence[Document]) -> Access:
    """Read the current context; of several files the first that names a thing counts.

    Raises Unconfigured.
    """
    current = next((found for _, read in documents if (found := read.get("current-context"))), "")
    if not current:
        message = f"{documents[0].path} has no current-context: kubectl config use-context NAME"
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
    token_file, server_name = user.get("tokenFile"), cluster.get("tls-server-name")
    return Access(
        url=url,
        authority=_pem(cluster_at, cluster, "certificate-authority"),
        certificate=_pem(user_at, user, "client-certificate"),
        key=_pem(user_at, user, "client-key"),
        token=str(user.get("token", "")),
        token_file=user_at / str(token_file) if token_file else None,
        server_name=None if server_name is None else str(server_name),
        insecure=cluster.get("insecure-skip-tls-verify") is True,
    )


def _pem(directory: Path, entry: Entry, name: str) -> Pem | None:
    """Return what *name* points at."""
    # Text goes before a path where there are both, as in kubectl.
    if text := entry.get(f"{name}-data"):
        decoded = _decoded(text)
        if decoded is None:
            message = f"the kubeconfig's {name}-data is not base64"
            raise Unconfigured(message)
        return Pem(text=decoded)
    path = entry.get(name)
    return Pem(directory / str(path)) if path else None


def _decoded(text: object) -> bytes | None:
    """Return what is written in base64, None where nothing is."""
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str | bytes) else None
    # binascii.Error is one of them; a plain one is for letters beyond ASCII.
    except ValueError:
        return None


def _entry(documents: Sequence[Document], kind: str, name: object) -> Document:
    for path, content in documents:
        entries = content.get(f"{kind}s")
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and entry.get("name") == name:
                found = entry.get(kind)
                return Document(path, found if isinstance(found, dict) else {})
    message = f"{documents[0].path} has no {kind} {name!r}"
    raise Unconfigured(message)
