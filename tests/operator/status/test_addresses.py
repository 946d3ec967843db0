"""When the network cannot follow a guest, its migration says so."""

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from handover_api import names
from handover_operator.status import following


def ips(text: str) -> tuple[Any, ...]:
    return tuple(ip_address(word) for word in text.split())


@pytest.mark.parametrize(
    ("sources", "targets", "wanted"),
    [
        (["10.0.0.1"], ["10.0.0.1"], None),
        (["10.0.0.1 fd00::1"], ["fd00::1 10.0.0.1"], None),
        ([], ["10.0.0.1"], None),
        (["10.0.0.1"], [], None),
        (["10.0.0.1", "192.0.2.1"], ["10.0.0.1"], None),
        (["10.0.0.1"], ["10.0.0.2"], "the source has 10.0.0.1, the target 10.0.0.2"),
        (["10.0.0.1 fd00::1"], ["10.0.0.1"], "the source has 10.0.0.1, fd00::1, the target"),
        (["10.0.0.1"], ["10.0.0.1 10.0.0.9"], "the source has 10.0.0.1, the target 10.0.0.1,"),
    ],
)
def test_addresses_that_do_not_come_along_are_an_obstacle(
    endpoint: Callable[..., Any],
    migration: Callable[..., Any],
    sources: list[str],
    targets: list[str],
    wanted: str | None,
) -> None:
    found = following.address_obstacle(
        migration(source="a", target="b"),
        [endpoint(f"s{n}", ips=ips(text)) for n, text in enumerate(sources)],
        [endpoint(f"t{n}", ips=ips(text)) for n, text in enumerate(targets)],
    )
    assert (found is None) == (wanted is None)
    if found is not None and wanted is not None:
        assert found[0] == "AddressChanged"
        assert found[1].startswith(wanted)


def test_it_is_a_condition_and_an_event_until_it_is_mended(
    world: Any, endpoint: Callable[..., Any], migration: Callable[..., Any]
) -> None:
    world.apply(
        migration(source="a", target="b"),
        endpoint("a", ips=ips("10.0.0.1")),
        endpoint("b", ips=ips("10.0.0.1")),
    )
    assert world.condition("AddressKept") is None
    world.apply(endpoint("b", ips=ips("10.0.0.2")))
    assert world.condition("AddressKept") == ("False", "AddressChanged")
    world.apply(endpoint("b", ips=ips("10.0.0.1")))
    assert world.condition("AddressKept") == ("True", "Kept")


def test_what_is_not_followed_at_all_is_said_as_the_adapter_notes_it(
    migration: Callable[..., Any],
) -> None:
    noted = migration(target="b")
    metadata = noted.metadata.model_copy(
        update={"annotations": {names.NOT_FOLLOWED: "interface default is not followed"}}
    )
    found = following.address_obstacle(noted.model_copy(update={"metadata": metadata}), [], [])
    assert found == ("NotFollowed", "interface default is not followed")
