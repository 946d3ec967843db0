"""The documentation as a browser gets it: whole, without dead ends, and from nowhere else."""

import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import pytest
from sphinx.errors import ExtensionError

from handover_lab.docs import statechart
from handover_lab.docs.pages import DOCS

needs_graphviz = pytest.mark.skipif(
    shutil.which("dot") is None, reason="needs dot: apt-get install graphviz"
)
LOADS = {("script", "src"), ("img", "src"), ("link", "href"), ("object", "data"), ("iframe", "src")}


class Page(HTMLParser):
    """What a page loads, where it leads and where one can jump to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if (tag, name) in LOADS:
                self.loads.append(value or "")
            elif (tag, name) == ("a", "href"):
                self.leads.append(value or "")
            elif name in {"id", "name"}:
                self.places.add(value or "")


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Build the documentation as `make docs` does."""
    strict = ("--quiet", "--fail-on-warning", "--keep-going", "--builder", "html")
    return subprocess.run(
        [sys.executable, "-m", "sphinx", *strict, str(source), str(target)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = build(DOCS, target)
    assert (done.returncode, done.stderr) == (0, "")
    return target


@needs_graphviz
def test_nothing_in_it_comes_from_another_host(site: Path) -> None:
    foreign = {
        (path.name, load)
        for path in site.rglob("*.html")
        for load in Page(path).loads
        if urlparse(load).scheme not in {"", "data"} or load.startswith("//")
    }
    styles = [
        path.name
        for path in site.rglob("*.css")
        if "@import" in path.read_text() or "url(http" in path.read_text()
    ]

    assert (foreign, styles) == (set(), [])


@needs_graphviz
def test_every_link_leads_to_a_page_and_a_place_in_it(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html")}
    dead = []
    for path, page in pages.items():
        for link in (*page.loads, *page.leads):
            target, place = urldefrag(link)
            if urlparse(target).scheme:
                continue
            file = path if not target else (path.parent / unquote(target.split("?")[0])).resolve()
            # An empty place is the top, and a script's own.
            found = file.exists() and (not place or file not in pages or known(pages[file], place))
            if not found:
                dead.append((path.name, link))
    assert dead == []


def known(page: Page, place: str) -> bool:
    """Whether one can jump there."""
    return unquote(place) in page.places


@needs_graphviz
def test_the_states_are_a_picture_without_a_script(site: Path) -> None:
    page = Page(site / "states.html")
    drawings = [load for load in page.loads if "graphviz-" in load]

    assert len(drawings) == 3
    first = (site / drawings[0]).read_text()
    assert all(f">{state}<" in first for state in ("Base", "Target", "Live", "TimeWait"))
    assert "mermaid" not in " ".join(page.loads)


@needs_graphviz
def test_a_dead_link_fails_the_build(tmp_path: Path) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    shutil.copy(DOCS / "conf.py", source)
    (source / "index.md").write_text("# One page\n\n[gone](nowhere.md)\n")

    done = build(source, tmp_path / "site")

    assert done.returncode != 0
    assert "nowhere.md" in done.stderr


def test_an_arrow_is_drawn_with_its_label() -> None:
    drawn = statechart.dot("stateDiagram-v2\n    Base --> Target: one<br/>two\n")

    assert '"Base" -> "Target" [label="one\\ntwo"];' in drawn
    assert "doublecircle" not in drawn


def test_states_around_one_are_drawn_below_each_other() -> None:
    around = statechart.dot("stateDiagram-v2\n  a --> b: in\n  b --> c: out\n")
    chain = statechart.dot("stateDiagram-v2\n  a --> b\n  b --> c\n  c --> d\n")

    assert "rankdir=LR" in around
    assert "rankdir" not in chain


@needs_graphviz
def test_a_command_is_copied_without_its_prompt(site: Path) -> None:
    page = (site / "operations.html").read_text()

    assert '<div class="highlight-console notranslate"><div class="highlight"><pre>' in page
    assert '<span class="gp">$ </span>' in page
    assert "user-select: none" in (site / "_static" / "handover.css").read_text()


@pytest.mark.parametrize("text", ["flowchart LR\n  a --> b", "stateDiagram-v2\n  state a { }"])
def test_what_cannot_be_drawn_is_refused(text: str) -> None:
    with pytest.raises(ExtensionError, match=r"stateDiagram-v2|no arrow"):
        statechart.dot(text)
