"""A certificate authority for one control plane: who serves and who asks both prove who they are.

Made with OpenSSL's command, whose own configuration file is not read: only what stands here holds.
"""

import shutil
import subprocess
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Self

DAYS: Final = "30"

CONFIGURATION: Final = """
[req]
distinguished_name = subject
x509_extensions = extensions
[subject]
[extensions]
subjectKeyIdentifier = hash
"""
AUTHORITY: Final = """
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, digitalSignature
"""
ISSUED: Final = """
basicConstraints = critical, CA:FALSE
authorityKeyIdentifier = keyid
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
"""


class OpensslMissingError(RuntimeError):
    """There is no OpenSSL; the text says how to get it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs certificates; itself a pair."""

    pair: Pair

    @classmethod
    def make(cls, directory: Path) -> Self:
        """Make a new authority in *directory*."""
        pair = pair_in(directory, "ca")
        run(pair, subject("handover-lab"), CONFIGURATION + AUTHORITY)
        return cls(pair)

    def issue(self, file: str, name: str, *groups: str, hosts: tuple[str, ...] = ()) -> Pair:
        """Issue a certificate for user *name* in *groups*, or a server that is *hosts*."""
        pair = pair_in(self.pair.certificate.parent, file)
        extensions = CONFIGURATION + ISSUED
        if hosts:
            extensions += f"subjectAltName = {', '.join(map(alternative, hosts))}\n"
        signer = ["-CA", str(self.pair.certificate), "-CAkey", str(self.pair.key)]
        run(pair, subject(name, *groups), extensions, *signer)
        return pair


def pair_in(directory: Path, file: str) -> Pair:
    """Name the two files of a pair."""
    return Pair(directory / f"{file}.crt", directory / f"{file}.key")


def run(pair: Pair, who: str, configuration: str, *more: str) -> None:
    """Make the files of *pair*; the key is readable by its owner only."""
    if shutil.which("openssl") is None:
        message = "OpenSSL is missing, which makes the keys: apt-get install openssl"
        raise OpensslMissingError(message)
    # An elliptic curve's key is made in milliseconds, RSA's in tenths of a second.
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    subprocess.run(
        [
            # With -CA among *more* it issues a certificate, without it signs its own (OpenSSL 3).
            *("openssl", "req", "-x509", *curve, "-days", DAYS, "-subj", who, *more),
            *("-keyout", str(pair.key), "-out", str(pair.certificate), "-config", "/dev/stdin"),
        ],
        input=configuration,
        check=True,
        capture_output=True,
        text=True,
    )


def subject(name: str, *groups: str) -> str:
    """Write a Kubernetes user as an OpenSSL subject."""
    return "".join([*(f"/O={escaped(group)}" for group in groups), f"/CN={escaped(name)}"])


def escaped(text: str) -> str:
    """Escape what separates the parts of a subject."""
    return "".join(f"\\{sign}" if sign in "\\/+" else sign for sign in text)


def alternative(host: str) -> str:
    """Write an address or a name as OpenSSL's alternative name."""
    try:
        return f"IP:{ip_address(host)}"
    except ValueError:
        return f"DNS:{host}"
