"""The images' bills of materials and the license report: ``python -m handover_lab.images.sbom``.

One CycloneDX document per image, written and validated by CycloneDX's own library. The same image
gives the same document.
"""

import datetime as dt
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from handover_lab.images import build, licenses

REPORT: Final = build.SUMMARY.with_name("licenses.md")
EPOCH: Final = dt.datetime.fromtimestamp(315532800, dt.UTC)
"""The time that all files of the images have."""

NAMES: Final = uuid.UUID("8b0ba9a5-6a0c-5b8e-9f0d-1d7c0e0f3a58")


@dataclass(frozen=True, slots=True)
class Material:
    """One image with what was read from it."""

    image: build.Image
    licenses: licenses.Licenses


def main() -> int:
    """Write both documents and the report; a distribution under the GPL alone is an error."""
    materials = [
        Material(image, licenses.read(Path(image.archive)))
        for image in build.read_summary().values()
    ]
    for material in materials:
        path = document_path(material.image)
        path.write_text(document(material))
        print(f"made {path.relative_to(build.ROOT)}")
    REPORT.write_text(report(materials))
    print(f"made {REPORT.relative_to(build.ROOT)}")
    bound = [name for each in materials for name in licenses.gpl_only(each.licenses.python)]
    for name in dict.fromkeys(bound):
        print(f"{name} may be used under the GPL only: no image of ours can have it")
    return 1 if bound else 0


def document_path(image: build.Image) -> Path:
    """Return where the document of an image is, beside its archive."""
    return Path(image.archive).with_suffix(".cdx.json")


def document(material: Material) -> str:
    """Return the CycloneDX document; raises ValueError where it would not be valid."""
    name, _, version = material.image.name.partition(":")
    image = Component(
        name=name,
        version=version,
        type=ComponentType.CONTAINER,
        bom_ref=name,
        licenses=[LicenseFactory().make_from_string("Apache-2.0")],
        properties=[Property(name="handover:image-id", value=material.image.digest)],
    )
    bom = Bom(serial_number=uuid.uuid5(NAMES, material.image.digest))
    bom.metadata.timestamp = EPOCH
    bom.metadata.component = image
    parts = [*python_parts(material), *debian_parts(material)]
    bom.components.update(parts)
    bom.register_dependency(image, parts)
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    if error := complaint(text):
        message = f"the bill of materials of {name} is not valid: {error}"
        raise ValueError(message)
    return text + "\n"


def python_parts(material: Material) -> Iterator[Component]:
    """Yield the Python distributions."""
    for name, version in material.image.packages["python"].items():
        url = PackageURL("pypi", None, name, version)
        expression = material.licenses.python[name]
        yield Component(
            name=name,
            version=version,
            type=ComponentType.LIBRARY,
            bom_ref=str(url),
            purl=url,
            licenses=[LicenseFactory().make_from_string(expression)],
        )


def debian_parts(material: Material) -> Iterator[Component]:
    """Yield the packages of the base; their licenses have Debian's names, which are not SPDX's."""
    for name, version in material.image.packages["debian"].items():
        url = PackageURL("deb", "debian", name, version, {"distro": "debian-12"})
        yield Component(
            name=name,
            version=version,
            type=ComponentType.LIBRARY,
            bom_ref=str(url),
            purl=url,
            licenses=[DisjunctiveLicense(name=each) for each in material.licenses.debian[name]],
        )


def complaint(text: str) -> str:
    """Return what the schema of CycloneDX finds wrong in a document."""
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return str(error) if error else ""


def report(materials: list[Material]) -> str:
    """Return a page with the packages of each image and their licenses."""
    lines = ["# Licenses in the images", ""]
    for material in materials:
        lines += [f"## {material.image.name}", "", f"`{material.image.digest}`", ""]
        lines += ["| package | version | license |", "|---|---|---|"]
        for kind, told in (
            ("python", material.licenses.python),
            ("debian", {k: ", ".join(v) for k, v in material.licenses.debian.items()}),
        ):
            packages = material.image.packages[kind]
            lines += [f"| {name} ({kind}) | {packages[name]} | {told[name]} |" for name in packages]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
