"""Runs a command as root in namespaces of its own, so that whatever ends it ends all of it.

Three processes hold a sandbox. The one that was called waits, and passes signals on. Its child,
the supervisor, starts the first process of the namespaces (tini). The kernel kills each of them
when the one before it dies, and with the first process of a pid namespace every other. What no
namespace takes along, control groups and files, the supervisor removes; where the end was a
SIGKILL, the next sandbox does.
"""

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from handover_lab.sandbox import directories, supervisor
from handover_lab.sandbox.directories import NoSuchSandboxError, SandboxDirectory
from handover_lab.sandbox.supervisor import SANDBOX, Supervisor
from handover_lab.terminal.relay import Relay

PROGRAMS: Final = ("unshare", "nsenter", "setpriv", "tini", "ip")


class SandboxError(RuntimeError):
    """There can be no sandbox; the text says what to do about it."""


def current() -> str | None:
    """Return the id of the sandbox that we are in."""
    return os.environ.get(SANDBOX)


def run(argv: Sequence[str]) -> int:
    """Run *argv* in a new sandbox and return its exit status, as a shell counts.

    Raises:
        SandboxError: this machine, or this user, cannot have one.
    """
    check_machine()
    for group in directories.sweep():
        say(f"{group} is left from an earlier run, and still in use.")
    directory, lock = directories.claim(shlex.join(argv))
    with lock, terminal_restored() as stdin:
        status, fate = fork_supervisor(directory, argv, stdin)
        if not fate:  # somebody has killed the supervisor, and with it all that it ran
            supervisor.clear(directory)
            return 128 + signal.SIGKILL
    if fate == "broken":
        message = (
            "This machine does not let root make namespaces"
            " (in a container: run that one privileged)."
        )
        raise SandboxError(message)
    if fate == "released":
        command = f"{sys.executable} -m handover_lab.sandbox"
        say(f"It stays up as sandbox {directory.id}.")
        say(f"  Run something in it:  {command} --enter {directory.id} -- COMMAND")
        say(f"  End it:               {command} --end {directory.id}")
    return int(status)


def fork_supervisor(
    directory: SandboxDirectory, argv: Sequence[str], stdin: int | None
) -> tuple[str, str]:
    """Fork the supervisor, and wait for its report: exit status and fate; nothing when it died."""
    reports, report_end = os.pipe()
    relay = Relay()
    we = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reports)
        relay.enter_child()
        be_supervisor(Supervisor(directory, report_end), we, argv, stdin)
    os.close(report_end)
    with passing_on(child), relay.enter_parent(), os.fdopen(reports) as stream:
        relay.carry_until(reports)
        report = stream.readline().split()
    if report[1:] != ["released"]:
        os.waitpid(child, 0)
    return (report[0], report[1]) if report else ("", "")


def be_supervisor(it: Supervisor, parent: int, argv: Sequence[str], stdin: int | None) -> NoReturn:
    """Be the supervisor in the fork, from which nothing returns."""
    try:
        supervisor.die_with_parent(signal.SIGKILL)
        if os.getppid() == parent:  # else it died before it could be told
            it.keep(argv, stdin)
    except BaseException:  # noqa: BLE001  the fork's root
        traceback.print_exc()
    finally:
        os._exit(1)


def release(status: int = 0) -> None:
    """Let the sandbox's caller go with *status*; the sandbox stays until it is ended.

    For the command that runs in it, which then goes on without a terminal.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    os.close(nowhere)
    SandboxDirectory(directories.PARENT / os.environ[SANDBOX]).send(f"release {status}")


def files() -> Path:
    """Return a directory of the sandbox that we are in; it goes with the sandbox."""
    return SandboxDirectory(directories.PARENT / os.environ[SANDBOX]).files


def enter(sandbox: str, argv: Sequence[str]) -> NoReturn:
    """Become *argv* in a living sandbox, in the directory where we are.

    Raises:
        NoSuchSandboxError: there is none with this id.
        SandboxError: we are in one ourselves.
    """
    if current():
        message = "From inside a sandbox no other one can be entered."
        raise SandboxError(message)
    first = SandboxDirectory.of(sandbox).first.read_text().strip()
    inside = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sandbox", str(Path.cwd()), *argv]
    command = ["nsenter", f"--target={first}", *supervisor.NAMESPACES, "--", *inside]
    os.execvpe(command[0], command, {**os.environ, SANDBOX: sandbox})  # noqa: S606


def end(sandbox: str) -> None:
    """End a living sandbox; nothing of it is left when this returns.

    Raises:
        NoSuchSandboxError: there is none with this id.
    """
    directory = SandboxDirectory.of(sandbox)
    directory.send("end")
    directory.await_end()


def check_machine() -> None:
    """Raise SandboxError when somebody or something is missing."""
    if os.geteuid() != 0:
        message = "Only root can make the lab's namespaces: run this with sudo."
        raise SandboxError(message)
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        message = f"{', '.join(missing)} must be installed first: `make prepare` does it."
        raise SandboxError(message)


@contextlib.contextmanager
def passing_on(child: int) -> Iterator[None]:
    """Pass signals on to *child* meanwhile."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    before = {number: signal.signal(number, pass_on) for number in supervisor.PASSED_ON}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def terminal_restored() -> Iterator[int | None]:
    """Take the terminal back afterwards: tini gives it to the command. Yields what stdin is.

    In the background there is none to give: the command must not take it from the foreground.
    """
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    ours = os.getpgrp()
    if os.tcgetpgrp(terminal) != ours:
        os.close(terminal)
        yield subprocess.DEVNULL if os.isatty(0) else None
        return
    try:
        yield None
    finally:
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(terminal, ours)
        signal.signal(signal.SIGTTOU, before)
        os.close(terminal)


def say(text: str) -> None:
    """Speak to a person beside the command's own output."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run a command as root in namespaces of its own; whatever ends it ends all of it."""
    parser = argparse.ArgumentParser(
        prog="python -m handover_lab.sandbox",
        usage="%(prog)s [--enter ID] -- COMMAND... | --list | --end ID",
        description=main.__doc__,
    )
    parser.add_argument("--enter", metavar="ID", help="run the command in a sandbox that is there")
    parser.add_argument("--end", metavar="ID", help="end a sandbox, with all that is in it")
    parser.add_argument("--list", action="store_true", help="list the sandboxes that are there")
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    chosen, command = parser.parse_args(words[:split]), words[split + 1 :]
    if not (command or chosen.end or chosen.list):
        parser.error("no command; it stands behind --")
    try:
        check_machine()
        return perform(chosen, command)
    except (SandboxError, NoSuchSandboxError) as error:
        say(str(error))
        return 1


def perform(chosen: argparse.Namespace, command: Sequence[str]) -> int:
    """Do what was chosen on the command line."""
    if chosen.list:
        for directory in directories.living():
            print(f"{directory.id}  {directory.command.read_text()}")
    elif chosen.end:
        end(chosen.end)
    elif chosen.enter:
        enter(chosen.enter, command)
    else:
        return run(command)
    return 0
