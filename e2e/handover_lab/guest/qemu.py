"""One VM as one QEMU process on one node: started, watched and ended through QMP.

TCG only: a /dev/kvm that opens may still be useless, so it is never tried. The QMP connection is a
socket pair, not a path: there is nothing to wait for and nothing to leave behind. Every QMP event
is kept with QEMU's own time of it.
"""

import asyncio
import collections
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, Self, cast

from qemu.qmp import EventListener, QMPClient, QMPError

from handover_lab.guest import initramfs
from handover_lab.processes.place import Place

MACHINE: Final = (
    *("qemu-system-x86_64", "-machine", "pc-i440fx-7.2,accel=tcg", "-cpu", "qemu64"),
    *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
)
# Deliberately no multiple of 256 KiB: for those, QEMU before 9.0 collects dirty pages in a way
# that forgets the emulated processor's TLB (their "physmem: Fix migration dirty bitmap coherency
# with TCG memory access"). Writes get lost, and one guest in five dies of its memory afterwards.
MEMORY_KIB: Final = 128 * 1024 + 8

READY: Final = b"guest: ready"
"""What the echo server prints on the console when it serves."""


# What qemu.qmp logs, our errors say.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


class GuestError(RuntimeError):
    """A guest died or did not do what was asked; the text ends with its last console lines."""


@dataclass(frozen=True, slots=True)
class Nic:
    """One virtio interface of a VM and the tap behind it, named alike on every node."""

    tap: str
    mac: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VmSpec:
    """What stays the same wherever the VM runs."""

    name: str
    nics: tuple[Nic, ...]
    memory_kib: int = MEMORY_KIB


@dataclass(frozen=True, slots=True)
class Event:
    """A QMP event; *key* is its name, for MIGRATION with the new status behind a colon."""

    key: str
    at_ns: int
    """Since the epoch, by QEMU's own reading of the clock."""

    @classmethod
    def of(cls, message: Mapping[str, object]) -> Self:
        """Read an event from its wire form."""
        key = str(message["event"])
        if key == "MIGRATION":
            key += f":{cast('Mapping[str, str]', message['data'])['status']}"
        moment = cast("Mapping[str, int]", message["timestamp"])
        return cls(key, moment["seconds"] * 10**9 + moment["microseconds"] * 1000)


def command_line(spec: VmSpec, image: initramfs.Image, qmp: int, *, incoming: bool) -> list[str]:
    """Compose QEMU's arguments; *qmp* is the descriptor of its end of the connection."""
    words = ["console=ttyS0", "quiet", "panic=-1"]
    argv = [*MACHINE, "-name", spec.name, "-m", f"{spec.memory_kib}k"]
    for index, nic in enumerate(spec.nics):
        words.append(f"handover.eth{index}={','.join(nic.addresses)}")
        # romfile= because the boot ROM comes with a package that nobody else here needs.
        argv += [
            *("-netdev", f"tap,id=net{index},ifname={nic.tap},script=no,downscript=no"),
            *("-device", f"virtio-net-pci,netdev=net{index},mac={nic.mac},romfile="),
        ]
    argv += ["-kernel", str(image.kernel), "-initrd", str(image.initramfs)]
    argv += ["-append", " ".join(words)]
    argv += ["-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control"]
    return [*argv, "-incoming", "defer"] if incoming else argv


class Guest:
    """One QEMU process: the VM itself, or the empty machine that waits for it."""

    def __init__(self, spec: VmSpec, process: asyncio.subprocess.Process, console: Path) -> None:
        self.spec = spec
        self.events: list[Event] = []
        self._process = process
        self._client = QMPClient(spec.name)
        self._news = asyncio.Condition()
        self._booted = False
        self._ended = False
        self._last: collections.deque[str] = collections.deque(maxlen=12)
        self._tasks = [asyncio.create_task(self._read_console(console))]

    @classmethod
    async def start(
        cls, place: Place, spec: VmSpec, console: Path, *, incoming: bool = False
    ) -> Self:
        """Start QEMU for *vm* at *place*; its console goes to the file *console*.

        Raises:
            GuestError: QEMU did not start, for instance because the tap is missing.
        """
        ours, theirs = socket.socketpair()
        argv = command_line(spec, initramfs.build(), theirs.fileno(), incoming=incoming)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *place.command(*argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
            )
        guest = cls(spec, process, console)
        listener = EventListener()
        guest._client.register_listener(listener)
        guest._tasks.append(asyncio.create_task(guest._read_events(listener)))
        try:
            await guest._client.connect(ours)
        except QMPError:
            await guest.end()
            guest.fail("QEMU did not start")
        return guest

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self._process.pid

    async def ready(self, seconds: float = 60) -> None:
        """Wait until the guest has booted and its echo server serves."""
        await self._wait(lambda: self._booted, seconds, "The guest did not boot")

    async def expect(self, *keys: str, after: int = 0, seconds: float = 60) -> Event:
        """Wait for the first event that has one of *keys*; the first *after* events are old."""
        found: list[Event] = []

        def is_there() -> bool:
            found.extend(event for event in self.events[after:] if event.key in keys)
            return bool(found)

        await self._wait(is_there, seconds, f"QEMU said no {' or '.join(keys)}")
        return found[0]

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Send one QMP command and return its answer."""
        try:
            return await self._client.execute(command, dict(arguments or {}))
        except QMPError as error:
            self.fail(f"QMP {command} failed: {error}")

    async def end(self) -> None:
        """End the process, whatever state it is in; a second time changes nothing."""
        with contextlib.suppress(QMPError, EOFError):
            await self._client.disconnect()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        console, *others = self._tasks
        await console
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def fail(self, what: str) -> NoReturn:
        """Raise the error that tells *what* went wrong and what the console said last."""
        lines = "\n".join(f"  {line}" for line in self._last) or "  (silent)"
        message = f"{what}. Last lines of {self.spec.name}'s console:\n{lines}"
        raise GuestError(message)

    async def _wait(self, is_so: Callable[[], bool], seconds: float, otherwise: str) -> None:
        """Wait for news until *is_so*; the end of the process or of the time is trouble."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait_for(lambda: is_so() or self._ended)
        if not is_so():
            self.fail("QEMU has ended" if self._ended else f"{otherwise} in {seconds:g} s")

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def _read_console(self, console: Path) -> None:
        assert self._process.stdout is not None
        with console.open("ab", buffering=0) as file:
            async for line in self._process.stdout:
                file.write(line)
                self._last.append(line.decode(errors="replace").rstrip())
                if READY in line:
                    self._booted = True
                    await self._tell()
        self._ended = True
        await self._tell()

    async def _read_events(self, listener: EventListener) -> None:
        async for message in listener:
            self.events.append(Event.of(message))
            await self._tell()
