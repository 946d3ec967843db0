"""A fault of ours that one endpoint meets, beside another one that must not be touched by it."""

from collections.abc import Callable
from typing import Any

from tests.nodeagent.world import World

from handover_api.names import ObjectKey

OTHER_V4 = "10.65.0.9 dev tap1 ... metric 1024"
BAD = ObjectKey("default", "vm")
WORDS = "nobody thought of this"


class Fault:
    """Raises for one endpoint, until it is mended."""

    def __init__(self) -> None:
        self.mended = False
        self.met = 0

    def over(self, work: Callable[..., Any], concerns: Callable[..., bool]) -> Callable[..., Any]:
        """Return *work* that raises where it *concerns* the endpoint."""

        def raising(*args: Any, **kwargs: Any) -> Any:
            if not self.mended and concerns(*args, **kwargs):
                self.met += 1
                raise ArithmeticError(WORDS)
            return work(*args, **kwargs)

        return raising


def put_good(world: World) -> None:
    world.put("good", interface="tap1", ips=["10.65.0.9"], mac=None)


async def told_and_healed(world: World, fault: Fault) -> None:
    """Wait until the endpoint says what happened; mend it, and wait until all is well."""
    await world.until_says("Programmed", "False", "InternalError")
    assert f"ArithmeticError: {WORDS}" in world.message("Programmed")
    await world.until(lambda: fault.met > 1)
    fault.mended = True
    await world.until_says("Programmed", "True", "Programmed")
