"""The commands of a cluster's user, awaited: whoever stops waiting for one ends it."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from handover_lab.processes import daemon
from handover_lab.toolchain import tools

FOREIGN: Final = ("HELM_", "KUBE", "XDG_")
"""How settings begin that are not for this cluster."""


class ClientError(RuntimeError):
    """A command failed; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Client:
    """Runs kubectl and helm for one kubeconfig; what they cache goes to *home*."""

    kubeconfig: Path
    home: Path

    async def run(self, program: str, *arguments: str, text: str = "") -> str:
        """Run *program* with *text* as its input and return what it says.

        Raises:
            ClientError: it failed.
        """
        pipe = asyncio.subprocess.PIPE
        process = await self.start(program, *arguments, stdin=pipe, stderr=pipe)
        try:
            said, trouble = await process.communicate(text.encode())
        # Cancelled, too: no kubectl outlives the one who waited for it.
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        if process.returncode:
            message = f"{program} {' '.join(arguments)}: {trouble.decode().strip()}"
            raise ClientError(message)
        return said.decode()

    async def start(
        self,
        program: str,
        *arguments: str,
        stdin: int = asyncio.subprocess.DEVNULL,
        stderr: int = asyncio.subprocess.DEVNULL,
    ) -> asyncio.subprocess.Process:
        """Start *program*, whose output can be read while it runs."""
        return await asyncio.create_subprocess_exec(
            str(tools.locate(program)),
            *arguments,
            env=environment(self.kubeconfig, self.home),
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )


def environment(kubeconfig: Path, home: Path) -> Mapping[str, str]:
    """Compose what a client is told: what it caches goes to *home*, nobody's settings come in."""
    ours = daemon.environment().items()
    kept = {name: value for name, value in ours if not name.startswith(FOREIGN)}
    return {**kept, "HOME": str(home), "KUBECONFIG": str(kubeconfig)}
