"""The probe beside a running agent, whose own routes it looks like."""

import asyncio
import sys

import pytest
from tests.nodeagent.world import World

from handover_api.configuration import Settings
from handover_nodeagent.commands.check_bgp import levels

pytestmark = pytest.mark.root

HOLD = """
import time
from handover_api.configuration import Settings
from handover_nodeagent.commands.check_bgp import levels, probe
with probe.placed("handover-probe", 88, 254) as placed:
    wanted = levels.of(Settings())
    placed.add(wanted)
    time.sleep(1)
    placed.replace(wanted)
    time.sleep(1)
    print(*(level.prefix for level in placed.remaining(wanted)))
"""


async def test_an_agent_lets_the_probes_routes_be(world: World) -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await asyncio.wait_for(program.communicate(), 30)

    assert said.decode().split() == [level.prefix for level in levels.of(Settings())]
    assert world.node.lines("ip route show proto 88") == []
