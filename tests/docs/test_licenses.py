"""What the license report accepts, and the bills of materials of the images as they are."""

import dataclasses
import json
import re
import subprocess
from pathlib import Path

import pytest

from handover_lab.docs.pages import ROOT
from handover_lab.images import build, licenses, sbom
from handover_lab.images.licenses import UnknownLicenseError

DEP5 = (
    "Format: the machine-readable one\n\nFiles: *\nLicense: LGPL-2.1+\n\nLicense: GPL-2+\n text\n"
)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", True),
        ("GPL-2.0-or-later", False),
        ("AGPL-3.0-only", False),
        ("LGPL-2.1-or-later", True),
        ("GPL-2.0-or-later OR Apache-2.0", True),
        ("GPL-2.0-only AND MIT", False),
        ("(GPL-2.0-only OR MIT) AND BSD-3-Clause", True),
        ("GPL-2.0-only OR (MIT AND GPL-3.0-only)", False),
    ],
)
def test_the_gpl_must_be_avoidable(expression: str, expected: object) -> None:
    assert licenses.is_free_of_gpl(expression) is expected


def test_distributions_under_the_gpl_alone_are_named() -> None:
    assert licenses.gpl_only({"b": "GPL-3.0-only", "a": "AGPL-3.0-only", "c": "MIT"}) == ["a", "b"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("License-Expression: Apache-2.0 AND MIT", "Apache-2.0 AND MIT"),
        ("License: MIT", "MIT"),
        ("License: ISC License\nClassifier: License :: OSI Approved :: ISC License (ISCL)", "ISC"),
        ("Classifier: License :: OSI Approved :: MIT License", "MIT"),
    ],
)
def test_a_distribution_says_its_license_in_any_of_the_usual_ways(
    fields: str, expected: str
) -> None:
    said = licenses.of_distribution(f"Name: Some_Thing\n{fields}\n\nlong text\n")

    assert said == ("some-thing", expected)


def test_a_license_that_nobody_knows_is_looked_at_by_a_person() -> None:
    with pytest.raises(UnknownLicenseError, match="thing says Do what you want"):
        licenses.of_distribution("Name: thing\nLicense: Do what you want\n\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DEP5, ("GPL-2+", "LGPL-2.1+")),
        ("Free.\nSee /usr/share/common-licenses/GPL-2.\n", ("GPL-2",)),
        ("License: in plain words\n", ("see copyright",)),
    ],
)
def test_both_forms_of_debians_copyright_files_are_read(
    text: str, expected: tuple[str, ...]
) -> None:
    assert licenses.of_copyright(text) == expected


@pytest.fixture(scope="module")
def materials() -> list[sbom.Material]:
    """Have both images built, and read them."""
    build.build_all()
    return [
        sbom.Material(image, licenses.read(Path(image.archive)))
        for image in build.read_summary().values()
    ]


@pytest.mark.root
def test_no_distribution_in_the_images_is_under_the_gpl_alone(
    materials: list[sbom.Material],
) -> None:
    assert [licenses.gpl_only(each.licenses.python) for each in materials] == [[], []]


@pytest.mark.root
def test_every_package_is_in_the_bill_of_materials_with_a_license(
    materials: list[sbom.Material],
) -> None:
    for material in materials:
        document = json.loads(sbom.document(material))
        told = {each["name"]: each for each in document["components"]}
        packages = material.image.packages

        assert set(told) == {*packages["python"], *packages["debian"]}
        assert all(each["licenses"] and each["version"] for each in told.values())
        assert document["metadata"]["component"]["type"] == "container"


@pytest.mark.root
def test_the_same_image_has_the_same_bill_of_materials(materials: list[sbom.Material]) -> None:
    assert sbom.document(materials[0]) == sbom.document(materials[0])


@pytest.mark.root
def test_a_document_lies_beside_each_image_and_names_its_digest(
    materials: list[sbom.Material],
) -> None:
    assert sbom.main() == 0
    for material in materials:
        document = json.loads(sbom.document_path(material.image).read_text())
        told = {
            each["name"]: each["value"] for each in document["metadata"]["component"]["properties"]
        }

        assert told == {"handover:image-id": material.image.digest}


def test_whoever_makes_the_images_has_their_bills_of_materials() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "images"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert re.search(
        r"handover_lab\.images\b.*handover_lab\.images\.sbom\b", done.stdout, re.DOTALL
    )


@pytest.mark.root
def test_a_document_that_is_not_valid_is_refused(materials: list[sbom.Material]) -> None:
    text = sbom.document(materials[0])

    assert sbom.complaint(text) == ""
    assert sbom.complaint(text.replace('"library"', '"something"')) != ""


@pytest.mark.root
def test_the_report_lists_every_package(materials: list[sbom.Material]) -> None:
    changed = dataclasses.replace(materials[0].image, name="handover-operator:9.9.9")
    text = sbom.report([sbom.Material(changed, materials[0].licenses)])

    assert "## handover-operator:9.9.9" in text
    assert all(f"| {name} (debian) |" in text for name in changed.packages["debian"])
