"""Every watch of the operator breaks, in each phase of a migration, and nothing is missed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml

from handover_lab.kubevirt.objects import Guest

pytestmark = pytest.mark.api

IPS: Final = ("10.65.0.2", "fd00::2")


class Line:
    """A line to the API server that can be cut; it carries bytes, so it needs no certificates."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self.is_cut = False

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Join one caller with the API server."""
        if self.is_cut:
            writer.close()
            return
        there, back = await asyncio.open_connection(*self._to)
        self._writers |= {writer, back}
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
            self._writers.discard(writer)

    def cut(self) -> None:
        """Break every connection, and take no new one until it is mended."""
        self.is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        """Take connections again."""
        self.is_cut = False


@pytest.fixture
def known(release: Any) -> Any:
    """Read the operator's kubeconfig, which leads to the API server itself."""
    return yaml.safe_load(Path(release.kubeconfig).read_text())


@pytest.fixture
async def line(known: Any, tmp_path: Path) -> AsyncIterator[tuple[Line, Path]]:
    """Lay a line; return it, and a kubeconfig that leads over it."""
    cluster = known["clusters"][0]["cluster"]
    url = urlsplit(cluster["server"])
    line = Line(url.hostname or "", url.port or 0)
    server = await asyncio.start_server(line.carry, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    cluster["server"] = f"https://127.0.0.1:{port}"
    kubeconfig = tmp_path / "kubeconfig"
    await asyncio.to_thread(kubeconfig.write_text, yaml.safe_dump(known))
    yield line, kubeconfig
    line.cut()
    server.close()


async def test_a_line_cut_in_each_phase_loses_nothing(
    new_operator: Callable[..., Any], desk: Any, line: tuple[Line, Path]
) -> None:
    wire, kubeconfig = line
    await new_operator(kubeconfig).start()
    await desk.kubevirt.start(Guest("web"), "node-a", IPS)
    await desk.until(desk.roles, bool)
    migration = await desk.kubevirt.request("web", "move")
    migration.node, migration.ips = "node-b", IPS
    for step in ("schedule", "bind", "hand_off", "target_ready", "switch", "succeed", "end_source"):
        wire.cut()
        await migration.until(step)
        wire.mend()
        source, target = migration.source_pod, migration.target_pod
        wanted = {source: "source of move", target: "target of move"}
        if step == "schedule":
            del wanted[target]
        if step in {"succeed", "end_source"}:
            wanted = {each: f"{said} Succeeded" for each, said in wanted.items()}
        if step == "end_source":
            del wanted[source]
        await desk.until_roles(wanted)
    assert desk.history[target][0] == "target of move"
    assert "-" not in desk.history[target]
