"""Where the parts of Kubernetes come from: other versions, the cache, and real builds that fail."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from handover_lab.toolchain import gobuild, tools
from handover_lab.toolchain.gobuild import Build, BuildError, Meter, Stage
from handover_lab.toolchain.tools import TOOLS, Tool, ToolsError

HELLO = Tool("hello", "example.test/tools/cmd/hello/v2", "example.test/hello", same=2)
PINS = {"example.test/hello": "v1.37.2"}
SOURCE = """package main
import "fmt"
func main() { fmt.Println("Hello v1.37.9") }
"""

needs_go = pytest.mark.skipif(
    shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin") is None, reason="needs Go"
)


@pytest.fixture
def screen() -> StringIO:
    return StringIO()


@pytest.fixture
def meter(screen: StringIO) -> Iterator[Meter]:
    with Meter(Console(file=screen, width=200), every=0) as it:
        yield it


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a small module with one tool in the place of ours, with an empty cache."""
    directory = tmp_path / "module"
    (directory / "cmd/hello/v2").mkdir(parents=True)
    (directory / "cmd/hello/v2/main.go").write_text(SOURCE)
    (directory / "go.mod").write_text("module example.test/tools\n\ngo 1.24\n")
    (directory / "go.sum").write_text("")
    monkeypatch.setattr(tools, "MODULE", directory)
    monkeypatch.setattr(tools, "TOOLS", {HELLO.name: HELLO})
    monkeypatch.setattr(tools, "pins", lambda _folder="": PINS)
    monkeypatch.setattr(tools, "ldflags", lambda _folder="": "-s -w")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    # Go derives its cache from the same variable; with an empty one it compiles its own library.
    monkeypatch.setenv("GOCACHE", os.environ.get("GOCACHE", f"{home}/go-build"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GOTOOLCHAIN", "local")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return directory


@pytest.fixture
def place(tmp_path: Path, module: Path) -> Callable[[str, str], Path]:  # noqa: ARG001
    """Make a directory with a program `hello` that says what it is told to say."""

    def make(name: str, says: str) -> Path:
        program = tmp_path / name / "hello"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho '{says}'\n")
        program.chmod(0o755)
        return program

    return make


@pytest.mark.parametrize("folder", ["", "helm3", "flannel"])
def test_every_tool_of_a_module_is_one_of_ours(folder: str) -> None:
    text = (tools.MODULE / folder / "go.mod").read_text()
    found = re.search(r"^tool (?:\((.*?)^\)|(\S+)$)", text, re.MULTILINE | re.DOTALL)
    assert found
    ours = sorted(tool.package for tool in TOOLS.values() if tool.folder == folder)
    assert ours == sorted("".join(found.groups("")).split())


def test_the_older_helm_is_built_of_the_same_parts_so_that_it_takes_no_time() -> None:
    pins, others = tools.pins(), tools.pins("helm3")
    # kubectl and the others are replaced there by those of the pinned Kubernetes.
    replaced = {name for name in others if name.startswith("k8s.io/") and name in pins}
    differ = {name for name in others if name in pins and pins[name] != others[name]} - replaced

    assert differ == set()
    assert {others[name] for name in replaced if others[name].startswith("v0.3")} == {
        pins["k8s.io/kubernetes"].replace("v1.", "v0.")
    }


def test_the_pins_are_those_of_the_module() -> None:
    pinned = {name: tools.dotted(tools.pinned(tool)) for name, tool in TOOLS.items()}
    assert pinned["kubelet"] == pinned["kube-apiserver"] == tools.pins()["k8s.io/kubernetes"][1:]
    assert pinned["etcd"].startswith("3.")
    assert pinned["helm"].startswith("4.")
    assert pinned["helm3"].startswith("3.")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("Kubernetes v1.37.2\n", (1, 37, 2)),
        ("Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0\n", (1, 32, 4)),
        ("etcd Version: 3.7.3\nGit SHA: Not provided\n", (3, 7, 3)),
        ("v4.3.1+g1234567\n", (4, 3, 1)),
        ("v4.3\n", (4, 3, 0)),
        ("Usage: something\n", ()),
    ],
)
def test_a_version_is_read_from_what_a_program_says(text: str, version: tools.Version) -> None:
    assert tools.version_in(text) == version


@pytest.mark.parametrize(
    ("name", "version", "does"),
    [
        ("kubelet", (1, 37, 2), True),
        ("kubelet", (1, 37, 0), True),
        ("kubelet", (1, 36, 9), False),
        ("kubelet", (1, 38, 0), False),
        ("kubelet", (), False),
        ("etcd", (3, 6, 0), True),
        ("etcd", (3, 5, 21), False),
        ("etcd", (4, 0, 0), False),
        ("helm", (4, 0, 0), True),
        ("helm", (3, 19, 0), False),
        ("helm3", (3, 19, 0), True),
        ("helm3", (4, 0, 0), False),
    ],
)
def test_a_version_fits_or_does_not(
    name: str, version: tools.Version, does: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes = {"k8s.io/kubernetes": "v1.37.2", tools.ETCD: "v3.7.3"}
    pins = {**kubernetes, tools.HELM: "v4.3.1", tools.HELM3: "v3.22.0"}
    monkeypatch.setattr(tools, "pins", lambda _folder="": pins)
    assert tools.fits(TOOLS[name], version) is does


def test_assets_come_before_path_and_path_before_the_cache(
    place: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assets, path = place("assets", "Hello v1.37.0"), place("path", "Hello v1.37.1")
    cached = tools.cache() / "hello"
    cached.parent.mkdir(parents=True)
    cached.touch()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets.parent))
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    assert tools.locate("hello") == assets
    monkeypatch.delenv("KUBEBUILDER_ASSETS")
    assert tools.locate("hello") == path
    path.unlink()
    assert tools.locate("hello") == cached
    cached.unlink()
    with pytest.raises(ToolsError, match="make tools"):
        tools.locate("hello")


@pytest.mark.parametrize(
    ("says", "named"), [("Hello v1.32.4", "1.32.4"), ("oops", "of an unknown version")]
)
def test_one_in_another_version_is_not_taken_but_named(
    says: str, named: str, place: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = place("path", says)
    monkeypatch.setenv("PATH", f"{other.parent}:{os.environ['PATH']}")
    with pytest.raises(ToolsError) as caught:
        tools.locate("hello")
    expected = (
        f"hello 1.37.2 is not there ({other} is {named}): `make tools` builds it, or"
        " KUBEBUILDER_ASSETS names a directory that has it."
    )
    assert expected == str(caught.value)


def test_a_program_that_cannot_run_has_no_version(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF")
    broken.chmod(0o755)
    assert tools.ask_version(str(broken), ("--version",)) == ()


def test_other_pins_have_another_cache(module: Path) -> None:
    before = tools.cache()
    (module / "go.sum").write_text("changed\n")
    assert tools.cache() != before


@needs_go
@pytest.mark.api
def test_what_was_built_is_found_and_never_built_again(
    module: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["tools"])
    assert tools.main() == 0
    hello = tools.locate("hello")
    assert hello == tools.cache() / "hello"
    assert tools.ask_version(str(hello), ()) == (1, 37, 9)
    assert "building hello" in capfd.readouterr().out
    monkeypatch.setattr(gobuild, "find_go", lambda: pytest.fail("builds again"))
    assert tools.main() == 0
    assert capfd.readouterr().out == f"{'hello':<24} 1.37.2   {'cache':<18} {hello}\n"
    assert sorted(path.name for path in hello.parent.iterdir()) == ["hello", "lock"]
    assert module.exists()


@needs_go
@pytest.mark.api
@pytest.mark.usefixtures("module")
def test_a_killed_build_is_neither_taken_for_a_whole_one_nor_kept(meter: Meter) -> None:
    killed = tools.cache() / "partial-killed"
    killed.mkdir(parents=True)
    (killed / "hello").write_bytes(b"half")
    assert tools.in_cache(HELLO) is None
    tools.build([HELLO], meter)
    assert not killed.exists()
    assert tools.ask_version(str(tools.locate("hello")), ()) == (1, 37, 9)


@needs_go
@pytest.mark.api
@pytest.mark.usefixtures("module")
def test_two_builds_at_once_are_one(
    meter: Meter, screen: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tools.cache()
    directory.mkdir(parents=True)
    shown = threading.Event()
    show = meter.show

    def tell(stage: Stage) -> None:
        show(stage)
        shown.set()

    monkeypatch.setattr(meter, "show", tell)
    with (directory / "lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        second = threading.Thread(target=tools.build, args=([HELLO], meter))
        second.start()
        assert shown.wait(10)
        (directory / "hello").write_text("made by the first")
    second.join(60)
    assert "waiting for another build of the same" in screen.getvalue()
    assert (directory / "hello").read_text() == "made by the first"


@pytest.mark.usefixtures("module")
def test_without_go_the_sentence_says_where_to_get_it(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(gobuild, "ELSEWHERE", "/nowhere/go")
    with pytest.raises(BuildError, match=r"Go is missing.*go\.dev/dl.*KUBEBUILDER_ASSETS"):
        tools.build([HELLO], meter)
    assert [path.name for path in tools.cache().iterdir()] == ["lock"]


@needs_go
@pytest.mark.api
def test_a_go_that_is_too_old_is_told_apart(module: Path, meter: Meter) -> None:
    (module / "go.mod").write_text("module example.test/tools\n\ngo 1.99\n")
    with pytest.raises(BuildError, match=r"^Go 1\.99 or newer is needed and this one is 1\.\d+"):
        tools.build([HELLO], meter)


@needs_go
@pytest.mark.api
def test_without_a_module_proxy_the_sentence_names_goproxy(
    module: Path, meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = "module example.test/tools\n\ngo 1.24\n\nrequire example.test/absent v1.0.0\n"
    (module / "go.mod").write_text(wanted)
    source = SOURCE.replace('"fmt"', '(\n"fmt"\n_ "example.test/absent"\n)')
    (module / "cmd/hello/v2/main.go").write_text(source)
    monkeypatch.setenv("GOPROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("GOFLAGS", "-mod=mod")
    monkeypatch.setenv("GONOSUMDB", "*")
    with pytest.raises(BuildError, match=r"^The Go modules cannot be had.*GOPROXY") as caught:
        tools.build([HELLO], meter)
    assert "Go said: " in str(caught.value)


@needs_go
@pytest.mark.api
def test_an_error_in_the_source_is_told_in_go_s_words(module: Path, meter: Meter) -> None:
    (module / "cmd/hello/v2/main.go").write_text("package main\nfunc main() { nonsense() }\n")
    with pytest.raises(BuildError, match=r"(?s)^Go could not build\..*undefined: nonsense"):
        tools.build([HELLO], meter)
    assert tools.in_cache(HELLO) is None


FULL = """
import sys
from pathlib import Path
from handover_lab.toolchain.gobuild import Build, BuildError, Meter, build
module, output = Path(sys.argv[1]), Path(sys.argv[2])
try:
    build(Build(module, ("example.test/tools/cmd/hello/v2",), ""), output, Meter())
except BuildError as error:
    print(error)
"""


@needs_go
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a small file system")
def test_a_full_disk_is_told_apart(module: Path, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    script = f'mount -t tmpfs -o size=256k small {tmp_path}/small && exec "$@"'
    argv = [sys.executable, "-c", FULL, str(module), str(tmp_path / "small")]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *argv],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "The disk is full: a first build takes 6 GB" in done.stdout, done


@pytest.mark.parametrize(
    ("lines", "made", "text"),
    [
        ([], [], "compiling packages 0 of 5"),
        (["go: downloading x v1", "a", "known"], [], "compiling packages 1 of 5  a"),
        (["a", "b"], ["kubectl"], "compiling packages 2 of 5  1 linked, b"),
        (["a", "b", "c"], ["kubectl"], "linking programs 1 of 2"),
        (["a", "b", "c", "m", "n"], ["helm", "kubectl"], "linking programs 2 of 2"),
    ],
)
def test_progress_is_counted_against_what_is_stale(
    lines: list[str], made: list[str], text: str, tmp_path: Path
) -> None:
    for name in made:
        (tmp_path / name).touch()
    stale = frozenset("abcmn")
    assert gobuild.compiling(lines, stale=stale, output=tmp_path, programs=2).text() == text


def test_progress_is_one_line_from_time_to_time() -> None:
    screen = StringIO()
    with Meter(Console(file=screen, width=200), every=3600) as meter:
        for done in range(3):
            meter.show(Stage("compiling packages", done, 3, "fmt"))
        meter.show(Stage("linking programs", 0, 7))
    lines = [re.fullmatch(r" *\d+ s  (.*)", line) for line in screen.getvalue().splitlines()]
    assert [line and line[1] for line in lines] == [
        "compiling packages 0 of 3  fmt",
        "linking programs 0 of 7",
    ]


def test_progress_is_one_moving_line_on_a_terminal() -> None:
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with Meter(console) as meter:
        meter.show(Stage("compiling packages", 1, 3, "fmt"))
    assert "compiling packages 1 of 3" in screen.getvalue()
    assert "fmt" in screen.getvalue()


@pytest.mark.api
@pytest.mark.parametrize("name", TOOLS)
def test_the_real_part_says_the_version_that_it_is_taken_for(name: str) -> None:
    tool = TOOLS[name]
    found = tools.find(tool)
    assert found is not None, "make tools"
    assert tools.ask_version(str(found.path), tool.ask) == found.version
    assert tools.fits(tool, found.version)


def test_the_build_of_a_program_has_the_name_that_go_gives_it() -> None:
    assert [TOOLS[name].built for name in ("etcd", "helm", "kubelet")] == [
        "server",
        "helm",
        "kubelet",
    ]
    assert Build(Path(), (), "-s").flags() == ["-trimpath", "-ldflags", "-s"]
