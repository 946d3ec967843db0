"""What is known after which versions, and what is to be looked at for them."""

from typing import Any

import pytest

from handover_api.names import ObjectKey
from handover_operator.cache import Cache, News
from handover_operator.kinds import Kind
from handover_operator.kube.versions import Version
from handover_operator.roles.outcome import no_driver
from handover_operator.status.configuration import Application

KEY = ObjectKey("default", "a")
DEFAULT = ObjectKey("", "default")
NODE = ObjectKey("", "node.x")
GOOD = {"node": "n", "workload": "a", "ips": ["10.0.0.1"]}


def build(key: ObjectKey, spec: object, uid: str = "x") -> dict[str, Any]:
    """Compose an object."""
    metadata = {"name": key.name, "namespace": key.namespace, "uid": uid, "resourceVersion": "1"}
    return {"metadata": metadata, "spec": spec}


@pytest.fixture
def cache() -> Cache:
    """Return one that knows nothing."""
    return Cache(no_driver)


def test_a_version_is_news_unless_it_is_old(cache: Cache) -> None:
    versions = [Version("x", 5), Version("x", 4), Version("x", 6), Version("y", 7)]

    news = [cache.note(Kind.ENDPOINT, KEY, version) for version in versions]

    assert news == [News.NEW, News.OLD, News.NEW, News.ANOTHER_OBJECT]
    assert (cache.uid(Kind.ENDPOINT, KEY), cache.count(Kind.ENDPOINT)) == ("y", 1)


def test_what_an_earlier_version_said_stays_while_nobody_can_read_the_newest(cache: Cache) -> None:
    assert cache.put(Kind.ENDPOINT, KEY, build(KEY, GOOD)) is None
    found = cache.put(Kind.ENDPOINT, KEY, build(KEY, {"node": "n"}))

    assert found is not None
    assert found == cache.unreadable[Kind.ENDPOINT, KEY]
    assert KEY in cache.resolver.index.endpoints
    assert cache.take_unreported() == {(Kind.ENDPOINT, KEY)}
    assert cache.take_unreported() == set()
    assert cache.put(Kind.ENDPOINT, KEY, build(KEY, GOOD)) is None
    assert cache.unreadable == {}


@pytest.mark.parametrize("kind", [Kind.ENDPOINT, Kind.MIGRATION])
def test_what_is_gone_is_forgotten_with_its_faults(cache: Cache, kind: Kind) -> None:
    cache.note(kind, KEY, Version("x", 1))
    cache.put(kind, KEY, build(KEY, {"armed": "perhaps"}))

    assert not cache.forget(kind, KEY, Version("another", 2))
    assert cache.unreadable.keys() == {(kind, KEY)}
    assert cache.forget(kind, KEY, Version("x", 2))
    assert (cache.unreadable, cache.unreported, cache.count(kind)) == ({}, set(), 0)


def test_each_node_s_configuration_is_judged_with_the_default(cache: Cache) -> None:
    cache.put(Kind.CONFIGURATION, NODE, build(NODE, {}))
    alone = cache.take_doubtful()
    cache.put(Kind.CONFIGURATION, DEFAULT, build(DEFAULT, {}))
    both = cache.take_doubtful()
    cache.drop(Kind.CONFIGURATION, DEFAULT)

    assert (alone, both, cache.take_doubtful()) == ({"node.x"}, {"node.x", "default"}, {"node.x"})


def test_the_default_is_judged_again_by_what_was_learned_beside_it(cache: Cache) -> None:
    cache.put(Kind.CONFIGURATION, DEFAULT, build(DEFAULT, {}))
    cache.take_doubtful()

    cache.take_application(Application(refusal="no"))
    applied = cache.take_doubtful()
    cache.take_paused(frozenset({"vms"}))

    assert applied == cache.take_doubtful() == {"default"}
    assert (cache.application, cache.paused) == (Application(refusal="no"), frozenset({"vms"}))


def test_what_was_taken_off_a_list_is_on_it_again_after_a_recall(cache: Cache) -> None:
    cache.put(Kind.CONFIGURATION, DEFAULT, build(DEFAULT, {}))
    cache.put(Kind.ENDPOINT, KEY, build(KEY, {}))
    taken = cache.take_doubtful(), cache.take_unreported()

    cache.recall()

    assert (cache.take_doubtful(), cache.take_unreported()) == taken
    assert taken == ({"default"}, {(Kind.ENDPOINT, KEY)})


def test_a_list_of_an_older_history_makes_all_versions_news(cache: Cache) -> None:
    cache.note(Kind.ENDPOINT, KEY, Version("x", 9))
    assert not cache.is_rewound(Kind.ENDPOINT, 9)
    assert cache.missing(Kind.ENDPOINT, {}, 9) == [(KEY, Version("x", 9))]

    assert cache.is_rewound(Kind.ENDPOINT, 5)
    cache.rewind(Kind.ENDPOINT)

    assert cache.note(Kind.ENDPOINT, KEY, Version("x", 3)) is News.NEW
