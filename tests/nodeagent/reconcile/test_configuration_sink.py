"""What the API says of configurations: what counts, in which order, and from when on."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from handover_api.configuration import Settings
from handover_api.names import ObjectKey
from handover_nodeagent import metrics
from handover_nodeagent.configuration import Layers
from handover_nodeagent.memory.files import Memory
from handover_nodeagent.reconcile.configuration_sink import ConfigurationSink
from handover_nodeagent.settings import AgentSettings


class Told:
    """Takes what follows from a configuration, in the order in which it does."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.misconfigured = ""
        self.paused = frozenset[str]()
        self.order: list[str] = []

    def configure(self, settings: Settings, misconfigured: str = "") -> None:
        """Take other settings."""
        self.settings, self.misconfigured = settings, misconfigured
        self.order.append(f"configure {settings.mode}")

    def pause(self, namespaces: frozenset[str]) -> None:
        """Take which namespaces are paused."""
        self.paused = namespaces
        self.order.append(f"pause {sorted(namespaces)}")

    def consider(self, annotations: Mapping[str, str]) -> None:
        """Take the annotations of ``default``."""
        self.order.append(f"uninstall? {sorted(annotations)}")


@pytest.fixture
def told() -> Told:
    """Return who is told."""
    return Told()


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Memory]:
    """Return an empty memory."""
    it = Memory(tmp_path)
    yield it
    await it.flush()
    it.close()


def sink(memory: Memory, told: Told, **fields: Any) -> ConfigurationSink:
    """Begin with what *memory* has, on node n."""
    settings = AgentSettings(node_name="n", **fields)
    layers = Layers(
        settings.node_name,
        settings.overrides,
        memory.load_configuration(),
        somebody_applies_default=settings.await_configuration,
    )
    return ConfigurationSink(layers, memory, told, told.consider)  # type: ignore[arg-type]


def version(
    name: str = "default", *, annotations: Mapping[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    """Make a HandoverConfiguration as the API would tell it."""
    paused = spec.pop("paused", None)
    metadata = {"name": name, "uid": "u", "generation": 4, "annotations": annotations or {}}
    status = {} if paused is None else {"status": {"pausedNamespaces": paused}}
    return {"metadata": metadata, "spec": spec, **status}


def remembered(directory: Path, **specs: Any) -> None:
    """Leave what the last agent knew."""
    (directory / "configuration.json").write_text(json.dumps(specs))


def kept(directory: Path) -> Any:
    """Return what the next agent would know."""
    path = directory / "configuration.json"
    return json.loads(path.read_text()) if path.exists() else None


async def test_a_pause_counts_before_settings_and_an_uninstall_after_them(
    memory: Memory, told: Told
) -> None:
    """What settings change must not touch what is paused; they say what an uninstall is to do."""
    sink(memory, told).put(version(mode="observe", paused=["b"], annotations={"note": "x"}))
    assert told.order == ["pause ['b']", "configure observe", "uninstall? ['note']"]


async def test_a_nodes_own_configuration_goes_before_default(memory: Memory, told: Told) -> None:
    it = sink(memory, told)
    it.put(version("node.n", probeInterval="2s"))
    it.put(version(probeInterval="1s", mode="observe"))
    assert (told.settings.probe_interval.total_seconds(), told.settings.mode) == (2, "observe")
    # It can neither pause a namespace nor ask for an uninstall.
    assert [line for line in told.order if not line.startswith("configure")] == ["uninstall? []"]


async def test_another_nodes_configuration_is_none_of_ours(memory: Memory, told: Told) -> None:
    sink(memory, told).put(version("node.other", mode="paused", paused=["b"]))
    assert told.order == []


async def test_its_generation_is_shown_until_it_goes(memory: Memory, told: Told) -> None:
    it = sink(memory, told)
    for name in ("default", "node.n"):
        it.put(version(name))
    assert metrics.GENERATION.labels("node.n")._value.get() == 4
    it.drop(ObjectKey("", "node.n"), "u")
    assert ("node.n",) not in metrics.GENERATION._metrics
    assert ("default",) in metrics.GENERATION._metrics


async def test_what_goes_counts_no_more(memory: Memory, told: Told, tmp_path: Path) -> None:
    it = sink(memory, told)
    it.put(version(mode="observe"))
    it.put(version("node.n", mode="paused"))
    it.drop(ObjectKey("", "node.other"), "u")
    assert told.settings.mode == "paused"
    it.drop(ObjectKey("", "node.n"), "u")
    assert told.settings.mode == "observe"
    await memory.flush()
    assert kept(tmp_path) == {"default": {"mode": "observe"}}


@pytest.mark.parametrize("is_told", [True, False])
async def test_what_was_only_remembered_is_gone_once_all_were_told(
    memory: Memory, told: Told, tmp_path: Path, *, is_told: bool
) -> None:
    """It was deleted while no agent watched; until the list is complete it holds."""
    remembered(tmp_path, **{"default": {"mode": "observe"}, "node.n": {"probeInterval": "2s"}})
    it = sink(memory, told)
    if is_told:
        it.put(version("node.n", probeInterval="2s"))
    assert told.order == (["configure observe"] if is_told else [])
    it.synced()
    assert told.settings.mode == "active"
    assert told.settings.probe_interval.total_seconds() == (2 if is_told else 0.2)
    assert told.order[-1] == "uninstall? []"


async def test_a_list_with_a_default_says_nothing_of_an_uninstall(
    memory: Memory, told: Told
) -> None:
    it = sink(memory, told)
    it.put(version(annotations={"handover.dev/x": "y"}))
    it.synced()
    assert [line for line in told.order if "uninstall" in line] == ["uninstall? ['handover.dev/x']"]


async def test_one_that_cannot_be_followed_changes_nothing_and_is_not_remembered(
    memory: Memory, told: Told, tmp_path: Path
) -> None:
    it = sink(memory, told)
    it.put(version(probeInterval="1s"))
    with capture_logs() as lines:
        it.put(version(probeInterval="1ms"))
    assert "probeInterval" in told.misconfigured
    assert told.settings.probe_interval.total_seconds() == 1
    assert [line["event"] for line in lines] == ["configuration_refused"]
    await memory.flush()
    assert kept(tmp_path) == {"default": {"probeInterval": "1s"}}
    it.put(version(probeInterval="3s"))
    assert (told.misconfigured, told.settings.probe_interval.total_seconds()) == ("", 3)


async def test_a_pause_is_told_where_it_changes_and_holds_where_nobody_tells(
    memory: Memory, told: Told
) -> None:
    it = sink(memory, told)
    with capture_logs() as lines:
        for paused in (["b", "a"], ["a", "b"], None, [], ["c"]):
            it.put(version(paused=paused))
    pauses = [line for line in told.order if line.startswith("pause")]
    assert pauses == ["pause ['a', 'b']", "pause []", "pause ['c']"]
    said = [line["namespaces"] for line in lines if line["event"] == "namespaces_paused"]
    assert said == ["a, b", "none any more", "c"]
    # The next agent leaves it alone before anybody has told it anything.
    await memory.flush()
    assert memory.load_paused() == {"c"}


async def test_nothing_is_definite_before_the_list_is_complete(memory: Memory, told: Told) -> None:
    it = sink(memory, told)
    it.put(version())
    assert not it.configured.is_set()
    assert "nobody has told" in it.unready()
    it.synced()
    assert it.configured.is_set()
    assert it.unready() == ""


async def test_an_outage_is_no_answer_but_that_there_is_no_such_kind_is(
    memory: Memory, told: Told, tmp_path: Path
) -> None:
    it = sink(memory, told)
    with capture_logs() as lines:
        it.outage("nobody answers", is_absent=False)
    (line,) = lines
    assert (line["event"], line["kind"]) == ("outage", "HandoverConfiguration")
    assert line["why"] == "nobody answers"
    assert not it.configured.is_set()
    it.outage("404", is_absent=True)
    assert it.configured.is_set()
    # The next start need not wait for what it knows.
    await memory.flush()
    assert kept(tmp_path) == {}


async def test_where_somebody_applies_default_its_absence_is_no_answer(
    memory: Memory, told: Told
) -> None:
    it = sink(memory, told, await_configuration=True)
    it.synced()
    it.outage("404", is_absent=True)
    it.put(version("node.n"))
    assert not it.configured.is_set()
    it.put(version())
    assert it.configured.is_set()


async def test_a_first_one_that_is_invalid_is_none(memory: Memory, told: Told) -> None:
    it = sink(memory, told)
    it.put(version(probeInterval="1ms"))
    it.synced()
    assert not it.configured.is_set()
    assert "probeInterval" in it.unready()
    it.put(version(probeInterval="1s"))
    assert it.configured.is_set()


async def test_what_is_remembered_is_enough_to_be_ready(
    memory: Memory, told: Told, tmp_path: Path
) -> None:
    remembered(tmp_path)
    it = sink(memory, told, await_configuration=True)
    assert it.unready() == ""
    it.put(version(probeInterval="1ms"))
    it.synced()
    # An older one stays in force, so that an invalid one is no reason to wait.
    assert it.configured.is_set()
