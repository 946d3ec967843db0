"""The flows to a guest, seen from the lab: started, read while they run, ended."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Self

from handover_lab.network import flow, stream
from handover_lab.network.measure import Packet, Progress
from handover_lab.processes.place import Place

Kind = Literal["ping", "udp", "tcp", "request"]


class TrafficError(RuntimeError):
    """A flow cannot run or got no answer; the text says which."""


@dataclass
class Recording:
    """What a flow's process has written so far, read on from where the last look ended."""

    path: Path
    sent: list[int] = field(default_factory=list)
    """When each packet was sent; its number is the index."""
    answered: dict[int, int] = field(default_factory=dict)
    """When the first answer to each came."""
    doubled: set[int] = field(default_factory=set)
    """Those that were answered once more."""
    broken: bool = False
    _offset: int = 0

    def read(self) -> None:
        """Take in the records that are new and whole."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            fresh = file.read()
        # The writer may be in the middle of a record.
        whole = len(fresh) - len(fresh) % flow.RECORD.size
        self._offset += whole
        for kind, number, moment in flow.RECORD.iter_unpack(fresh[:whole]):
            if kind == flow.SENT:
                self.sent.append(moment)
            elif kind == flow.ANSWERED:
                # A second answer to the same packet is a duplicate, and comes later.
                if number in self.answered:
                    self.doubled.add(number)
                self.answered.setdefault(number, moment)
            else:
                self.broken = True

    def packets(self) -> tuple[Packet, ...]:
        """Return all packets known so far, in the order of sending."""
        return tuple(
            Packet(moment, self.answered.get(number), number in self.doubled)
            for number, moment in enumerate(self.sent)
        )


class Flow:
    """One running flow and its recording."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], recording: Recording) -> None:
        self.name = name
        self.recording = recording
        self._process = process

    @classmethod
    def start(cls, place: Place, kind: Kind, address: str, interval_ms: float, path: Path) -> Self:
        """Send to *address* from *place*; the file *path* is the recording, made anew."""
        path.write_bytes(b"")
        argv = (sys.executable, "-m", flow.__name__, kind, address, str(interval_ms), str(path))
        with path.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(
                place.command(*argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return cls(f"{kind} to {address}", process, Recording(path))

    @property
    def identifier(self) -> int:
        """What its pings carry: each flow's is its process's, cut to what ICMP has room for."""
        return self._process.pid & 0xFFFF

    @property
    def request_port(self) -> int:
        """From where its requests come."""
        return flow.request_port(self._process.pid)

    async def answered(self, since_ns: int = 0, seconds: float = 20) -> None:
        """Wait for an answer that arrived after *since_ns*.

        Raises:
            TrafficError: none came, or the flow ended.
        """
        arrivals = self.recording.answered.values()
        await self._until(lambda: next(reversed(arrivals), 0) > since_ns, seconds)

    async def overtaken(self, since_ns: int, seconds: float = 30) -> None:
        """Wait for an answer to a packet sent after *since_ns*: none of before comes after it.

        Raises:
            TrafficError: none came, or the flow ended.
        """
        sent, answered = self.recording.sent, self.recording.answered
        await self._until(lambda: sent[next(reversed(answered), 0)] > since_ns, seconds)

    async def stop(self) -> Recording:
        """End the flow and return its whole recording; a second time changes nothing."""
        self._process.terminate()
        await asyncio.to_thread(self._process.wait)
        self.recording.read()
        return self.recording

    async def _until(self, is_so: Callable[[], bool], seconds: float) -> None:
        for _ in range(int(seconds * 50)):
            self.recording.read()
            if is_so():
                return
            if self._process.poll() is not None:
                break
            await asyncio.sleep(0.02)
        log = self.recording.path.with_suffix(".log").read_text().strip()
        message = f"{self.name} got no answer in {seconds:g} s{log and f' ({log})'}"
        raise TrafficError(message)


Direction = Literal["download", "upload"]
STREAM_S: Final = 10.0


class Stream:
    """One running TCP stream in one direction, and how far it has come."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], path: Path) -> None:
        self.name = name
        self._process = process
        self._path = path

    @classmethod
    def start(cls, place: Place, direction: Direction, address: str, path: Path) -> Self:
        """Begin a stream between *place* and *address*; the file *path* is made anew."""
        path.write_bytes(b"")
        argv = (sys.executable, "-m", stream.__name__, direction, address, str(path))
        with path.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(
                place.command(*argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return cls(f"{direction} {address}", process, path)

    async def flows(self) -> None:
        """Wait until something has got through.

        Raises:
            TrafficError: nothing did, or the stream ended.
        """
        for _ in range(int(STREAM_S * 50)):
            if self._path.stat().st_size >= stream.RECORD.size:
                return
            if self._process.poll() is not None:
                break
            await asyncio.sleep(0.02)
        log = self._path.with_suffix(".log").read_text().strip()
        message = f"{self.name} did not begin{log and f' ({log})'}"
        raise TrafficError(message)

    async def stop(self) -> tuple[Progress, ...]:
        """End the stream and return how it went; a second time changes nothing."""
        self._process.terminate()
        await asyncio.to_thread(self._process.wait)
        content = self._path.read_bytes()
        whole = len(content) - len(content) % stream.RECORD.size
        return tuple(Progress(*each) for each in stream.RECORD.iter_unpack(content[:whole]))
