"""How images are put together: which packages go in, what is said when a step fails."""

import shutil
from importlib import metadata
from pathlib import Path

import pytest

from handover_lab.images import base as imagebase
from handover_lab.images import build, wheels
from handover_lab.images.build import Component
from handover_lab.toolchain import cache
from handover_lab.toolchain.steps import StepError, Steps

PINS = """aiohttp==3.14.5 \\
    --hash=sha256:00 \\
    --hash=sha256:01
    # via handover (pyproject.toml)
yarl==1.25.1 \\
    --hash=sha256:02
    # via
    #   aiohttp
zlib==1 \\
    --hash=sha256:03
"""


def test_the_agent_gets_no_kopf_no_kubernetes_client_and_no_scapy() -> None:
    packages = set(wheels.closure("nodeagent"))

    assert {"aiohttp", "pydantic", "pyroute2", "typer"} <= packages
    heavy = {"kopf", "kubernetes-asyncio", "scapy"}
    assert not (heavy | {"pytest", "handover"}) & packages


def test_the_operator_gets_kopf_and_no_netlink() -> None:
    packages = set(wheels.closure("operator"))

    assert {"kopf", "kubernetes-asyncio", "aiohttp", "pyyaml"} <= packages
    assert not {"pyroute2", "scapy", "pytest", "handover"} & packages


def test_a_closure_follows_needs_extras_and_markers(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {
        "handover": ["base", 'first[fast]; extra == "one"', 'second; extra == "two"'],
        "base": None,
        "first": ["Third_Party>=1", 'quick; extra == "fast"', 'other; sys_platform == "win32"'],
        "third-party": ["base"],
        "quick": [],
    }
    monkeypatch.setattr(metadata, "requires", needs.__getitem__)

    assert wheels.closure("one") == ("base", "first", "quick", "third-party")


def test_pins_keep_every_hash_of_what_is_wanted_and_nothing_else() -> None:
    pins = wheels.pinned(("aiohttp", "yarl"), PINS)

    assert pins == PINS.partition("zlib")[0]
    assert wheels.versions(pins) == {"aiohttp": "3.14.5", "yarl": "1.25.1"}


def test_what_is_not_pinned_is_named() -> None:
    with pytest.raises(StepError, match=r"does not pin kopf, rich: run make constraints"):
        wheels.pinned(("aiohttp", "kopf", "rich"), PINS)


@pytest.mark.parametrize("component", build.COMPONENTS, ids=lambda each: each.name)
def test_everything_an_image_needs_is_pinned(component: Component) -> None:
    assert component.pins.count("==") == len(wheels.closure(component.extra))


def test_our_own_packages_come_with_a_script_that_needs_no_shell(tmp_path: Path) -> None:
    source = tmp_path / "handover_agent"
    (source / "__pycache__").mkdir(parents=True)
    (source / "cli.py").write_text("app = print\n")
    site = tmp_path / "site"

    wheels.add_own((source,), "handover-agent", site)

    script = site / "bin" / "handover-agent"
    assert script.read_text().startswith("#!/usr/local/bin/python3\n")
    assert "from handover_agent.cli import app" in script.read_text()
    assert script.stat().st_mode & 0o777 == 0o755
    assert [each.name for each in (site / "handover_agent").iterdir()] == ["cli.py"]


def test_a_step_that_fails_says_which_and_why_and_where_more_is(tmp_path: Path) -> None:
    said: list[str] = []
    steps = Steps(tmp_path / "log", said.append)
    steps.run("greeting", "sh", "-c", "echo hello")

    with pytest.raises(StepError) as failure:
        steps.run("packing", "sh", "-c", "echo first; echo no space left >&2; echo; exit 3")

    assert str(failure.value) == f"packing failed: no space left ({tmp_path}/log says all of it)"
    assert said == ["greeting …", "packing …"]


def test_a_step_does_not_take_the_words_of_another(tmp_path: Path) -> None:
    steps = Steps(tmp_path / "log", lambda _: None)
    steps.run("greeting", "sh", "-c", "echo hello")

    with pytest.raises(StepError, match="packing failed: no word of why"):
        steps.run("packing", "false")


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="packing failed: there is no program nosuchprogram"):
        Steps(tmp_path / "log", lambda _: None).run("packing", "nosuchprogram")


def test_a_long_step_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("handover_lab.toolchain.steps.SIGN_OF_LIFE", 0.01)

    Steps(tmp_path / "log", said.append).run("waiting", "sleep", "0.2")

    assert "  waiting: 0 s" in said


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "buildah" else name)

    with pytest.raises(StepError, match="need buildah: run apt-get install buildah"):
        build.check_machine()


def test_only_root_can_build(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name: name)

    assert build.main([]) == 1
    assert capsys.readouterr().err == "Only root can build the images: run sudo make images.\n"


def test_a_room_that_a_killed_build_left_is_emptied_and_removed(tmp_path: Path) -> None:
    directory = tmp_path / "scratch"
    (directory / "old").mkdir(parents=True)

    with cache.emptied(directory):
        assert list(directory.iterdir()) == []

    assert not directory.exists()


def test_what_the_cache_has_is_not_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[str] = []

    def make(directory: Path) -> None:
        made.append("entry")
        (directory / cache.RESULT).write_text(f"number {len(made)}")

    first = cache.entry("one", make).read_text()
    again = cache.entry("one", make).read_text()

    assert (first, again, made) == ("number 1", "number 1", ["entry"])


def test_a_failure_leaves_nothing_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(directory: Path) -> None:
        (directory / "half").touch()
        message = "packing failed"
        raise StepError(message)

    with pytest.raises(StepError):
        cache.entry("one", fail)

    assert [path.name for path in cache.directory().iterdir()] == ["one.lock"]


def test_the_recipe_is_part_of_the_bases_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = imagebase.recipe_key(imagebase.NEWEST)
    monkeypatch.setattr(imagebase, "RECIPE", imagebase.RECIPE + 1)

    assert imagebase.recipe_key(imagebase.NEWEST) != before


def test_each_suite_has_a_base_and_packages_of_its_own() -> None:
    trixie, bookworm = (imagebase.SUITES[name] for name in ("trixie", "bookworm"))

    assert imagebase.recipe_key(trixie) != imagebase.recipe_key(bookworm)
    assert "python3.13-minimal" in trixie.packages
    assert "python3.11-minimal" in bookworm.packages


@pytest.mark.parametrize("suite", imagebase.SUITES)
def test_the_base_comes_from_this_machines_mirrors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suite: str
) -> None:
    listed = "\n".join(
        f"http://mirror.example/debian/ {release}"
        for release in ("bookworm", "bookworm-updates", "bookworm-backports", "trixie")
    )
    program = tmp_path / "apt-get"
    program.write_text(f"#!/bin/sh\ncat <<EOF\n{listed}\nEOF\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    assert imagebase.mirrors(imagebase.SUITES[suite]) == [
        f"deb http://mirror.example/debian/ {suite} main",
        f"deb http://mirror.example/debian/ {suite}-updates main",
    ]


def test_an_image_depends_on_its_own_sources_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = imagebase.Base("oci-archive:base", {})
    operator, nodeagent = build.COMPONENTS
    for component in build.COMPONENTS:
        for source in (*component.sources, component.containerfile):
            copy = tmp_path / source.relative_to(build.ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, copy, dirs_exist_ok=True)
            else:
                shutil.copy(source, copy)
    for path in (*build.RECIPE, build.ROOT / "constraints.txt"):
        copy = tmp_path / path.relative_to(build.ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    recipe = tuple(tmp_path / path.relative_to(build.ROOT) for path in build.RECIPE)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "RECIPE", recipe)
    suite = imagebase.NEWEST
    before = [build.fingerprint(component, base, suite) for component in (operator, nodeagent)]

    with (tmp_path / "operator" / "handover_operator" / "roles.py").open("a") as file:
        file.write("# another line\n")

    after = [build.fingerprint(component, base, suite) for component in (operator, nodeagent)]
    assert (after[0] != before[0], after[1]) == (True, before[1])
