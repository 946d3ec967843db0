"""Every record is one line, whoever writes it; tried in a process of its own."""

import json
import subprocess
import sys

SCRIPT = """
import logging, structlog, sys
from handover_nodeagent import logs
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
