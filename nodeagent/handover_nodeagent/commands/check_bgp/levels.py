"""PURE: the probe's routes, one for each family and priority, and what becomes of a metric.

They are in the prefixes that are set aside for documentation (RFC 5737, RFC 3849): whoever hears
of them has no host there.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from handover_api.configuration import Settings

IPV4: Final = "ipv4"
IPV6: Final = "ipv6"
FAMILIES: Final = (IPV4, IPV6)
_HIGHEST_PREFERENCE: Final = 2147483647
"""LOCAL_PREF has 32 bits; half of them are enough for every metric that the API takes."""


class Level(NamedTuple):
    """One priority of one family, with the probe's route that has it."""

    family: str
    name: str
    metric: int
    prefix: str

    @property
    def local_pref(self) -> int:
        """What every speaker is to make of the metric: the lower, the more preferred."""
        return _HIGHEST_PREFERENCE - self.metric

    @property
    def address(self) -> str:
        """The route's destination without its length."""
        return self.prefix.partition("/")[0]


def of(settings: Settings) -> tuple[Level, ...]:
    """Return all four, the elevated one of a family first."""
    return (
        Level(IPV4, "elevated", settings.ipv4_elevated_route_priority, "192.0.2.88/32"),
        Level(IPV4, "normal", settings.ipv4_normal_route_priority, "192.0.2.89/32"),
        Level(IPV6, "elevated", settings.ipv6_elevated_route_priority, "2001:db8::88/128"),
        Level(IPV6, "normal", settings.ipv6_normal_route_priority, "2001:db8::89/128"),
    )


def in_family(levels: Iterable[Level], family: str) -> tuple[Level, Level]:
    """Return the elevated and the normal one of *family*."""
    elevated, normal = (level for level in levels if level.family == family)
    return elevated, normal
