"""Every record is one line, whoever writes it; tried in a process of its own."""

import json
import subprocess
import sys

from handover_nodeagent.status import logs

SCRIPT = """
import logging, structlog, sys
from handover_nodeagent.status import logs
logs.configure("info", sys.argv[1])
structlog.get_logger().debug("hidden")
structlog.get_logger().info("moved", endpoint="ns/ä")
logging.getLogger("aiohttp").warning("slow %s", "server")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger().exception("failed")
"""


def run(fmt: str) -> list[str]:
    argv = [sys.executable, "-W", "error", "-c", SCRIPT, fmt]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_each_record_is_a_json_object_on_a_line() -> None:
    moved, slow, failed = map(json.loads, run("json"))
    assert moved.pop("timestamp").endswith("Z")
    assert moved == {"event": "moved", "endpoint": "ns/ä", "level": "info"}
    assert (slow["event"], slow["logger"]) == ("slow server", "aiohttp")
    assert "ZeroDivisionError" in failed["exception"]


def test_the_console_is_for_people() -> None:
    lines = "\n".join(run("console"))
    for text in ("moved", "slow server", "ZeroDivisionError"):
        assert text in lines


STUCK = """
import os, sys, structlog
from handover_nodeagent import metrics
from handover_nodeagent.status import logs
logs.configure("info", "json")
log = structlog.get_logger()
for number in range(int(sys.argv[1])):
    log.info("line", number=number, text="x" * 1000)
print(int(metrics.LOST_LINES._value.get()), flush=True)
"""


TOO_MANY = 2 * logs.MOST // 1000
"""Lines of more than 1,000 octets: twice what waits for a reader."""


def test_a_reader_that_does_not_read_stops_nothing() -> None:
    """The pipe holds 64 KiB; what does not fit into the bound either is counted."""
    argv = [sys.executable, "-W", "error", "-c", STUCK, str(TOO_MANY)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lost = int(process.stdout.readline())
        assert lost > 0
        written = process.stderr.read().splitlines()
        assert process.wait(20) == 0
    assert len(written) + lost == TOO_MANY
    assert [json.loads(line)["number"] for line in written] == list(range(len(written)))


def test_a_reader_that_never_comes_does_not_hold_up_the_end() -> None:
    argv = [sys.executable, "-W", "error", "-c", STUCK, str(TOO_MANY)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.wait(60) == 0


LONG = """
import structlog
from handover_nodeagent.status import logs
logs.configure("info", "json")
structlog.get_logger().info("line", why="y" * 100_000)
try:
    raise ValueError("z" * 100_000)
except ValueError:
    structlog.get_logger().exception("failed")
"""


def test_a_line_has_a_bound_whatever_it_quotes() -> None:
    argv = [sys.executable, "-W", "error", "-c", LONG]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    for line in done.stderr.splitlines():
        assert len(line) < 12_000
        json.loads(line)
