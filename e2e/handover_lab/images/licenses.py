"""The licenses of an image's packages, as the packages themselves say them in its archive."""

import email
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from license_expression import ExpressionError, get_spdx_licensing
from packaging.utils import canonicalize_name

SPDX: Final = get_spdx_licensing()
METADATA: Final = re.compile(r".*/([^/]+)\.dist-info/METADATA")
COPYRIGHT: Final = re.compile(r"usr/share/doc/([^/]+)/copyright")
FOLDER: Final = re.compile(r"usr/share/doc/([^/]+)")
CLASSIFIERS: Final = {
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""What packages say that know no SPDX yet; a name that is not here is looked up by a person."""

STRONG_COPYLEFT: Final = re.compile(r"A?GPL-")


class UnknownLicenseError(ValueError):
    """A package does not say its license in words that are known; the text names it."""


@dataclass(frozen=True, slots=True)
class Licenses:
    """What the packages of one image say."""

    python: Mapping[str, str]
    """Distribution → SPDX expression."""

    debian: Mapping[str, tuple[str, ...]]
    """Package → the names of the licenses in its copyright file."""


def read(archive: Path) -> Licenses:
    """Read an image; raises UnknownLicenseError."""
    python: dict[str, str] = {}
    debian: dict[str, tuple[str, ...]] = {}
    links: dict[str, str] = {}
    for member, content in members(archive):
        name = member.name.removeprefix("./")
        if content is not None and METADATA.fullmatch(name):
            distribution, expression = of_distribution(content.read().decode())
            python[distribution] = expression
        elif content is not None and (found := COPYRIGHT.fullmatch(name)):
            debian[found[1]] = of_copyright(content.read().decode(errors="replace"))
        elif member.issym() and (found := FOLDER.fullmatch(name)):
            links[found[1]] = member.linkname
    debian |= {name: debian[target] for name, target in links.items() if target in debian}
    return Licenses(python, debian)


def members(archive: Path) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Yield everything in the layers of an image."""
    with tarfile.open(archive) as image:
        listing = image.extractfile("manifest.json")
        assert listing is not None
        (manifest,) = json.load(listing)
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=image.extractfile(layer)) as files:
                for member in files:
                    yield member, files.extractfile(member) if member.isreg() else None


def of_distribution(metadata: str) -> tuple[str, str]:
    """Return a distribution's name and SPDX expression; raises UnknownLicenseError."""
    fields = email.message_from_string(metadata)
    name = canonicalize_name(fields["Name"])
    for said in (fields["License-Expression"], fields["License"]):
        if said and is_spdx(said):
            return name, str(said)
    prefix = "License :: OSI Approved :: "
    classified = [
        each.removeprefix(prefix)
        for each in fields.get_all("Classifier", ())
        if each.startswith(prefix)
    ]
    if not classified or any(each not in CLASSIFIERS for each in classified):
        message = f"{name} says {fields['License']} and {classified}: look at its license yourself"
        raise UnknownLicenseError(message)
    return name, " OR ".join(CLASSIFIERS[each] for each in classified)


def is_spdx(text: str) -> bool:
    """Whether *text* is an expression of licenses that SPDX knows."""
    try:
        SPDX.parse(text, validate=True)
    except ExpressionError:
        return False
    return True


def of_copyright(text: str) -> tuple[str, ...]:
    """Return the names in a Debian copyright file; one without a format only refers to texts."""
    found = re.findall(r"^License:[ \t]*(\S.*)$", text, re.MULTILINE)
    if not text.startswith("Format"):
        found = re.findall(r"/usr/share/common-licenses/([A-Za-z]+[A-Za-z0-9.-]*\w)", text)
    return tuple(sorted(dict.fromkeys(each.strip() for each in found))) or ("see copyright",)


def gpl_only(python: Mapping[str, str]) -> Iterable[str]:
    """Name the distributions that nobody may use but under the GPL."""
    return sorted(name for name, expression in python.items() if not is_free_of_gpl(expression))


def is_free_of_gpl(expression: str) -> bool:
    """Whether there is a way to use it without the GPL or AGPL; the LGPL is none of them."""
    return _is_free(SPDX.parse(expression))


def _is_free(part: object) -> bool:
    if isinstance(part, SPDX.OR):
        return any(map(_is_free, part.args))
    if isinstance(part, SPDX.AND):
        return all(map(_is_free, part.args))
    return not STRONG_COPYLEFT.match(str(part))
