"""PURE: what zebra and bgpd answer on their vtys: JSON where they have it, else their own lines."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Final

import pydantic

from handover_api.model import Model

_ROUTER: Final = re.compile(r"router bgp \d+$")
_REDISTRIBUTE: Final = re.compile(r"redistribute kernel(?: .*?route-map (\S+))?")
_SUPPRESS: Final = "suppress-fib-pending"


class Path(Model):
    """One path of a prefix. ``weight`` is left out where it is 0, ``loc_prf`` where it is 100."""

    weight: int = 0
    loc_prf: int | None = None
    sourced: bool = False


class BgpRoute(Model):
    """A prefix as bgpd has it: an answer without a path is one that says "nothing"."""

    paths: tuple[Path, ...] = ()
    advertised_to: Mapping[str, object] = pydantic.Field(default_factory=dict)

    @property
    def own(self) -> Path | None:
        """The path that this node itself has brought, None where there is none."""
        return next((path for path in self.paths if path.sourced), None)


class Peer(Model):
    """The other end of a session, in one family."""

    state: str = ""
    remote_as: int = 0
    local_as: int = 0

    @property
    def is_up(self) -> bool:
        """Tell whether it hears us."""
        return self.state == "Established"

    @property
    def is_internal(self) -> bool:
        """Tell whether LOCAL_PREF crosses this session."""
        return self.remote_as == self.local_as


class _Family(Model):
    peers: Mapping[str, Peer] = pydantic.Field(default_factory=dict)


class Summary(Model):
    """The answer to "show bgp summary json": a family without peers is left out."""

    ipv4: Annotated[_Family, pydantic.Field(alias="ipv4Unicast")] = _Family()
    ipv6: Annotated[_Family, pydantic.Field(alias="ipv6Unicast")] = _Family()

    def peers(self, family: str) -> Mapping[str, Peer]:
        """Return the peers that carry *family*, by address."""
        return {"ipv4": self.ipv4, "ipv6": self.ipv6}[family].peers


class BgpConfiguration(Model):
    """What of bgpd's configuration concerns us. ``redistributed``: route-map by family, or ""."""

    redistributed: Mapping[str, str]
    suppresses_pending: bool = False


def has_route(answer: Mapping[str, object]) -> bool:
    """Tell whether zebra's answer to "show ip route PREFIX json" shows one."""
    return bool(answer)


def configuration(text: str) -> BgpConfiguration:
    """Read bgpd's answer to "show running-config": of the router without a VRF alone."""
    lines = [line.strip() for line in text.splitlines()]
    redistributed: dict[str, str] = {}
    family = ""
    for line in _router(lines):
        if line.startswith("address-family "):
            words = line.split()
            family = words[1] if words[2:3] == ["unicast"] else ""
        elif line == "exit-address-family":
            family = ""
        elif family and (found := _REDISTRIBUTE.fullmatch(line)):
            redistributed[family] = found[1] or ""
    return BgpConfiguration(
        redistributed=redistributed,
        # Older versions have it for all routers at once, outside of any.
        suppresses_pending=any(
            line.endswith(_SUPPRESS) and not line.startswith("no ") for line in lines
        ),
    )


def _router(lines: Iterable[str]) -> Iterable[str]:
    """Return the lines of the default router."""
    inside = False
    for line in lines:
        if line.startswith("router "):
            inside = _ROUTER.match(line) is not None
        elif line == "exit":
            inside = False
        elif inside:
            yield line
