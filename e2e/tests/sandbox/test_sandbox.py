"""Sandboxes that end in every way there is; nothing of them is ever left."""

import contextlib
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import pytest

from handover_lab.processes import cgroups
from handover_lab.sandbox import directories, sandbox
from handover_lab.sandbox.directories import NoSuchSandboxError, SandboxDirectory
from handover_lab.sandbox.sandbox import SandboxError

MISSING = [name for name in sandbox.PROGRAMS if shutil.which(name) is None]
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces"),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]
CALL: Final = [sys.executable, "-m", "handover_lab.sandbox"]
IMPATIENCE: Final = """
from handover_lab.sandbox import sandbox, supervisor
supervisor.GRACE = 0.5
raise SystemExit(sandbox.main())
"""
IMPATIENT: Final = [sys.executable, "-c", IMPATIENCE]
"""The same call, but who will not end has less time to."""
PATIENCE: Final = 20

# In every hierarchy a group with one within it, in both a process that has left its parents.
NODE: Final = """
for top in $(awk '$0 ~ / - cgroup2? / {print $5}' /proc/self/mountinfo); do
  group=$top/handover-$HANDOVER_SANDBOX-node-a
  mkdir -p $group/pod
  for file in cpus mems; do
    for set in $group $group/pod; do
      if [ -e $set/cpuset.$file ]; then cat $top/cpuset.$file > $set/cpuset.$file || true; fi
    done
  done
  setsid sleep 1000 < /dev/null > /dev/null 2>&1 &
  echo $! > $group/pod/cgroup.procs
done
"""


@dataclass
class Living:
    """A sandbox that runs, and the process that was called."""

    caller: subprocess.Popen[str]
    id: str
    space: int
    """The number of its pid namespace."""

    @property
    def supervisor(self) -> int:
        """The process that keeps it."""
        pid = self.caller.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def tell(self, line: str) -> None:
        """Write a line for the command to read."""
        assert self.caller.stdin is not None
        self.caller.stdin.write(f"{line}\n")
        self.caller.stdin.flush()

    def line(self) -> str:
        """Read the next line that the command prints."""
        assert self.caller.stdout is not None
        return self.caller.stdout.readline().strip()

    def await_deserted(self) -> None:
        """Return when its last process is gone; the end of each is awaited."""
        deadline = time.monotonic() + PATIENCE
        while found := inhabitants(self.space):
            assert time.monotonic() < deadline, found
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(found[0])
                select.select([descriptor], [], [], 1)
                os.close(descriptor)


@dataclass
class Sandboxes:
    """Starts sandboxes, and ends with the test those that did not end in it."""

    living: list[Living] = field(default_factory=list)

    def start(self, script: str, then: str = "wait", call: Sequence[str] = CALL) -> Living:
        """Start one in which *script* has run when this returns, and *then* goes on."""
        text = f'{script}\necho "up $HANDOVER_SANDBOX"\n{then}\n'
        argv = [*call, "--", "sh", "-ec", text]
        caller = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert caller.stdout is not None
        up, name = caller.stdout.readline().split()
        assert up == "up"
        first = SandboxDirectory(directories.PARENT / name).first.read_text().strip()
        self.living.append(Living(caller, name, Path(f"/proc/{first}/ns/pid").stat().st_ino))
        return self.living[-1]

    def end(self) -> None:
        """End all of them."""
        for it in self.living:
            it.caller.kill()
            it.caller.wait()
            for stream in (it.caller.stdin, it.caller.stdout):
                assert stream is not None
                stream.close()


@pytest.fixture
def sandboxes() -> Iterator[Sandboxes]:
    it = Sandboxes()
    yield it
    it.end()
    directories.sweep()


def run(*argv: str, words: str = "") -> subprocess.CompletedProcess[str]:
    """Run a sandbox to its end."""
    command = [*CALL, "--", *argv]
    return subprocess.run(
        command, check=False, input=words, capture_output=True, text=True, timeout=60
    )


def inhabitants(space: int) -> list[int]:
    """List the processes of a pid namespace."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "ns/pid").stat().st_ino == space:
                found.append(int(process.name))
    return found


def groups_of(name: str) -> list[Path]:
    return [group for owner, group in cgroups.groups() if owner == name]


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)],
)
def test_its_status_is_the_command_s(script: str, status: int) -> None:
    assert run("sh", "-c", script).returncode == status


def test_it_passes_on_what_is_read_and_written() -> None:
    done = run("sh", "-c", "cat; echo oops >&2", words="hello")
    assert (done.stdout, done.stderr) == ("hello", "oops\n")


def test_a_reader_that_leaves_ends_the_command() -> None:
    argv = shlex.join([*CALL, "--", "yes"])
    done = subprocess.run(
        ["bash", "-c", f"{argv} | head -1; echo ${{PIPESTATUS[0]}}"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "y\n141\n"


def test_a_command_that_is_not_there_is_named() -> None:
    done = run("no-such-command")
    assert done.returncode == 127
    assert "no-such-command" in done.stderr


def test_inside_is_a_world_of_its_own() -> None:
    script = """
    echo $HANDOVER_SANDBOX
    cat /proc/1/comm
    ls -d /proc/[0-9]* | wc -l
    cat /proc/sys/kernel/hostname
    ls /run
    ip -brief link | cut -d ' ' -f 1
    readlink /proc/self/ns/ipc
    """
    name, first, processes, host, run_, link, ipc = run("sh", "-c", script).stdout.split()
    assert re.fullmatch("[0-9a-f]{6}", name)
    assert first == "tini"
    assert int(processes) < 6
    assert host == f"handover-{name}"
    assert (run_, link) == ("lock", "lo")
    assert ipc != str(Path("/proc/self/ns/ipc").readlink())


def test_loopback_is_up() -> None:
    probe = "import socket; s = socket.create_server(('127.0.0.1', 0));"
    probe += "socket.create_connection(s.getsockname(), 2)"
    assert run(sys.executable, "-c", probe).returncode == 0


def test_a_mount_made_inside_is_not_seen_outside(tmp_path: Path) -> None:
    script = f"mount -t tmpfs inside {tmp_path} && touch {tmp_path}/file"
    assert run("sh", "-c", script).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_the_end_of_the_command_ends_what_it_has_left_running(sandboxes: Sandboxes) -> None:
    it = sandboxes.start(NODE, then="read go; exit 3")
    it.tell("go")
    assert it.caller.wait(PATIENCE) == 3
    assert inhabitants(it.space) == []
    assert groups_of(it.id) == []
    assert not (directories.PARENT / it.id).exists()


def test_a_signal_reaches_the_command(sandboxes: Sandboxes) -> None:
    it = sandboxes.start(f"{NODE} trap 'echo heard; exit 9' TERM")
    it.caller.terminate()
    assert it.line() == "heard"
    assert it.caller.wait(PATIENCE) == 9
    assert inhabitants(it.space) == []
    assert groups_of(it.id) == []


def test_sigkill_of_the_caller_ends_all_of_it(sandboxes: Sandboxes) -> None:
    it = sandboxes.start(NODE)
    assert len(inhabitants(it.space)) >= 3
    it.caller.kill()
    it.await_deserted()


def test_the_next_start_clears_up_after_a_killed_one(sandboxes: Sandboxes) -> None:
    it = sandboxes.start(f"{NODE} touch {directories.PARENT}/$HANDOVER_SANDBOX/files/large")
    it.caller.kill()
    it.caller.wait()
    assert len(groups_of(it.id)) == len(cgroups.hierarchies())
    assert (directories.PARENT / it.id / "files/large").exists()
    assert run("true").returncode == 0
    assert groups_of(it.id) == []
    assert not (directories.PARENT / it.id).exists()


def test_the_next_start_clears_groups_whose_room_is_gone() -> None:
    group = cgroups.hierarchies()[0] / "handover-0000ff-node-a"
    (group / "pod").mkdir(parents=True)
    assert run("true").returncode == 0
    assert not group.exists()


def test_groups_of_others_stay() -> None:
    group = cgroups.hierarchies()[0] / f"handover-others-{os.getpid()}"
    group.mkdir()
    try:
        assert run("true").returncode == 0
        assert group.exists()
    finally:
        group.rmdir()


def test_sigkill_of_the_keeper_ends_all_of_it(sandboxes: Sandboxes) -> None:
    it = sandboxes.start(NODE)
    os.kill(it.supervisor, signal.SIGKILL)
    assert it.caller.wait(PATIENCE) == 137
    it.await_deserted()
    assert groups_of(it.id) == []
    assert not (directories.PARENT / it.id).exists()


def test_two_live_side_by_side(sandboxes: Sandboxes) -> None:
    first, second = sandboxes.start(NODE), sandboxes.start(NODE)
    assert first.id != second.id
    assert first.space != second.space
    assert {first.id, second.id} <= {directory.id for directory in directories.living()}
    second.caller.terminate()
    assert second.caller.wait(PATIENCE) == 143
    assert len(groups_of(first.id)) == len(cgroups.hierarchies())
    assert inhabitants(first.space) != []


def test_one_runs_in_another(sandboxes: Sandboxes) -> None:
    script = f"{sys.executable} -m handover_lab.sandbox -- sh -c 'echo $HANDOVER_SANDBOX; exit 4'"
    outer = sandboxes.start(NODE, then=script)
    inner = outer.line()
    assert inner != outer.id
    assert outer.caller.wait(PATIENCE) == 4
    assert groups_of(inner) == groups_of(outer.id) == []


RELEASED: Final = f"""exec {sys.executable} -c '
import signal, sys
from handover_lab.sandbox import sandbox
sandbox.release(5)
print("nobody hears this", flush=True)
signal.pause()
'"""


@pytest.fixture
def released(sandboxes: Sandboxes) -> Iterator[Living]:
    it = sandboxes.start(NODE, then=RELEASED)
    assert it.caller.wait(PATIENCE) == 5
    yield it
    with contextlib.suppress(NoSuchSandboxError):
        sandbox.end(it.id)


def test_a_released_one_outlives_its_caller(
    released: Living, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert released.line() == f"It stays up as sandbox {released.id}."
    assert f"--enter {released.id} -- COMMAND" in released.line()
    assert released.line().endswith(f"handover_lab.sandbox --end {released.id}")
    assert released.line() == ""
    assert run("true").returncode == 0  # and the next start leaves it alone
    assert len(groups_of(released.id)) == len(cgroups.hierarchies())
    monkeypatch.setattr(sys, "argv", ["sandbox", "--list"])
    assert sandbox.main() == 0
    assert f"{released.id}  sh -ec " in capfd.readouterr().out


def test_a_released_one_can_be_entered(released: Living) -> None:
    script = "echo $HANDOVER_SANDBOX $(cat /proc/1/comm) $(pwd) $(cat /proc/sys/kernel/hostname)"
    argv = [*CALL, "--enter", released.id, "--", "sh", "-c", f"{script}; exit 6"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 6, done.stderr
    expected = [released.id, "tini", str(Path.cwd()), f"handover-{released.id}"]
    assert done.stdout.split() == expected


def test_a_released_one_ends_when_it_is_told_to(released: Living) -> None:
    sandbox.end(released.id)
    assert inhabitants(released.space) == []
    assert groups_of(released.id) == []
    assert not (directories.PARENT / released.id).exists()


def test_one_that_will_not_end_is_ended(
    sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "while true; do sleep 1000 || true; done"
    it = sandboxes.start("trap '' TERM", then=script, call=IMPATIENT)
    monkeypatch.setenv("HANDOVER_SANDBOX", "")
    sandbox.end(it.id)
    assert it.caller.wait(PATIENCE) == 137
    assert inhabitants(it.space) == []


def test_one_that_is_not_there_is_named() -> None:
    with pytest.raises(NoSuchSandboxError, match="No sandbox 123456 is there; --list shows"):
        sandbox.end("123456")


def test_only_root_can_have_one(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["sandbox", "--", "true"])
    assert sandbox.main() == 1
    expected = "Only root can make the lab's namespaces: run this with sudo.\n"
    assert capfd.readouterr() == ("", expected)


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "PROGRAMS", ("sh", "tiny", "netto"))
    with pytest.raises(SandboxError, match=r"^tiny, netto must be installed first: `make prepare`"):
        sandbox.check_machine()


def test_where_namespaces_are_forbidden_it_says_so_and_leaves_nothing() -> None:
    before = directories.living()
    limited = ["setpriv", "--inh-caps=-sys_admin", "--bounding-set=-sys_admin"]
    done = subprocess.run(
        [*limited, *CALL, "--", "true"], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "This machine does not let root make namespaces (in a container" in done.stderr
    assert "Traceback" not in done.stderr
    assert [directory.id for directory in directories.living()] == [
        directory.id for directory in before
    ]


@dataclass
class Terminal:
    """A person's end of a terminal on which a sandbox runs in the foreground."""

    ours: IO[bytes]
    shown: str = ""

    def await_shown(self, text: str) -> None:
        """Return when *text* is on the screen."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.shown:
            ready, _, _ = select.select([self.ours], [], [], deadline - time.monotonic())
            assert ready, self.shown
            self.shown += os.read(self.ours.fileno(), 1000).decode()

    def type(self, keys: bytes) -> None:
        """Press keys."""
        self.ours.write(keys)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """Give a terminal whose session is a shell: it runs a sandbox, and then asks for a line."""
    ours, theirs = pty.openpty()
    inner = f"{shlex.join(CALL)} -- sh -c 'echo up; read -r x; echo on:$x; exec sleep 1000'"
    script = f"{inner}; echo status:$?; read -r line; echo read:$line"
    shell = subprocess.Popen(
        ["env", "--default-signal", "setsid", "--ctty", "bash", "-c", script],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    with os.fdopen(ours, "r+b", buffering=0) as screen:
        yield Terminal(screen)
        shell.kill()
        shell.wait()


def test_ctrl_c_ends_the_command_and_the_terminal_is_the_caller_s_again(terminal: Terminal) -> None:
    terminal.await_shown("up")
    terminal.type(b"\x1ahello\n")
    terminal.await_shown("on:hello")  # Ctrl-Z did not stop it
    terminal.type(b"\x03")
    terminal.await_shown("status:130")
    terminal.type(b"again\n")
    terminal.await_shown("read:again")
