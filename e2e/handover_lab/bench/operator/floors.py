"""The floors of the operator's bench: the least that could do a part of its work, timed beside it.

python -m handover_lab.bench.operator.floors KUBECONFIG   imports, lists both kinds, and ends
"""

import asyncio
import importlib
import itertools
import sys
import time
from pathlib import Path
from typing import Final

from handover_lab.bench.operator import objects
from handover_lab.bench.operator.client import KINDS, BenchError, Client, collection

PROGRAM: Final = "handover_operator.main"
PAGE: Final = 500
"""Objects of a list's answer, as informers ask for."""
NUMBER: Final = 1_000_000
"""Of the endpoint that is written, which takes part in no migration."""


class ConditionalPatch:
    """One bare conditional PATCH after the other, of an object that nobody else writes.

    The operator's own writes are of this kind: where the object is another one meanwhile, the API
    server refuses them.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._key = objects.endpoint_key(NUMBER)
        self._version = ""
        self._numbers = itertools.count()

    async def time(self) -> float:
        """Return the ms from request to answer."""
        if not self._version:
            await self._client.create(objects.endpoint(NUMBER))
            await self._write()
        began = time.perf_counter()
        await self._write()
        return (time.perf_counter() - began) * 1000

    async def _write(self) -> None:
        metadata = {"annotations": {"count": str(next(self._numbers))}}
        condition = {"resourceVersion": self._version} if self._version else {}
        found = await self._client.patch(self._key, {"metadata": {**metadata, **condition}})
        self._version = found["metadata"]["resourceVersion"]


async def time_start(kubeconfig: Path) -> float:
    """Return the seconds that a process takes to import what the operator does, and to list."""
    began = time.perf_counter()
    argv = (sys.executable, "-m", "handover_lab.bench.operator.floors", str(kubeconfig))
    process = await asyncio.create_subprocess_exec(*argv)
    if await process.wait():
        message = "the floor of a start failed"
        raise BenchError(message)
    return time.perf_counter() - began


async def list_all(kubeconfig: Path) -> None:
    """Read all objects of both kinds, page by page."""
    async with Client.connect(kubeconfig) as client:
        for kind in KINDS:
            token = ""
            while True:
                query = f"?limit={PAGE}&continue={token}"
                page = await client.call("GET", collection(kind) + query)
                token = page["metadata"].get("continue", "")
                if not token:
                    break


if __name__ == "__main__":
    importlib.import_module(PROGRAM)
    asyncio.run(list_all(Path(sys.argv[1])))
