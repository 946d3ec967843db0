"""What is known of the cluster: the newest version of every object, in the form that we use. Pure.

Nothing is decided here. What must be looked at once more is noted here, until somebody takes it
who may write: configurations to be judged, and faults to be told.
"""

import enum
from collections.abc import Iterator, Mapping
from typing import assert_never

from handover_api.configuration import HandoverConfiguration
from handover_api.livemigration import LiveMigration
from handover_api.names import DEFAULT_CONFIGURATION, ObjectKey
from handover_operator.kinds import Kind
from handover_operator.kube.versions import Version, Versions
from handover_operator.roles import parse
from handover_operator.roles.outcome import Driver
from handover_operator.roles.parse import RawObject, Unreadable
from handover_operator.roles.peers import Peers
from handover_operator.roles.resolver import Resolver
from handover_operator.roles.sharing import Sharing
from handover_operator.status.configuration import Application


class News(enum.Enum):
    """What a version is to what was known of its object."""

    OLD = "old"
    NEW = "new"
    ANOTHER_OBJECT = "another object"
    """The one that was known by this name is gone, though nobody has told it."""


class Cache:
    """All objects of our kinds.

    ``application``: how the last apply of ``default`` went, where this operator applies it.
    ``paused``: the namespaces that hold a person's brake; None while nobody can tell.
    ``doubtful``: configurations to be judged again. ``unreported``: objects that nobody can read
    and of which nobody was told yet; ``unreadable``: all of them. *driver*: the resolver's.
    """

    def __init__(self, driver: Driver) -> None:
        self.resolver = Resolver(driver)
        self.sharing = Sharing()
        self.peers = Peers(self.resolver.index)
        self.configurations: dict[str, HandoverConfiguration] = {}
        self.unreadable: dict[tuple[Kind, ObjectKey], Unreadable] = {}
        self.application: Application | None = None
        self.paused: frozenset[str] | None = None
        self.doubtful: set[str] = set()
        self.unreported: set[tuple[Kind, ObjectKey]] = set()
        # One for each kind: only the resourceVersions of one kind are compared with each other.
        self._versions = {kind: Versions() for kind in Kind}

    def uid(self, kind: Kind, key: ObjectKey) -> str | None:
        """Return the uid of an object; None when it is unknown."""
        return self._versions[kind].uid(key)

    def count(self, kind: Kind) -> int:
        """Count the objects of a kind."""
        return len(self._versions[kind])

    def migrations(self) -> Iterator[LiveMigration]:
        """Return all LiveMigrations."""
        return iter(self.resolver.index.migrations.values())

    def shared(self) -> int:
        """Count the endpoints of which another node serves an address, too."""
        return sum(bool(each.shared) for each in self.resolver.index.endpoints.values())

    def note(self, kind: Kind, key: ObjectKey, version: Version) -> News:
        """Take in that an object has this version; what the version says is for ``put``.

        Where it is another object of that name, what followed from the former one ends first
        (``drop``).
        """
        # Before the version is taken: that puts its own uid in this one's place.
        known = self.uid(kind, key)
        if not self._versions[kind].take(key, version):
            return News.OLD
        return News.NEW if known in {None, version.uid} else News.ANOTHER_OBJECT

    def put(self, kind: Kind, key: ObjectKey, raw: RawObject) -> Unreadable | None:
        """Take in what the newest version says, or return what of it nobody can read.

        Then what an earlier version said stays in force: who mistypes a field of an object must not
        take the role of a guest that is on its way.
        """
        found = self._read(kind, key, raw)
        if found is None:
            self.unreadable.pop((kind, key), None)
        else:
            # For whoever describes the object; the others go on.
            self.unreadable[kind, key] = found
            self.unreported.add((kind, key))
        return found

    def drop(self, kind: Kind, key: ObjectKey) -> None:
        """Take in that what was known by this name is no more; one that is unknown is fine."""
        self.unreadable.pop((kind, key), None)
        self.unreported.discard((kind, key))
        match kind:
            case Kind.ENDPOINT:
                self.resolver.drop_endpoint(key)
                self.sharing.drop(key)
                self.peers.drop(key)
            case Kind.MIGRATION:
                migration = self.resolver.index.migrations.get(key)
                self.resolver.drop_migration(key)
                if migration is not None:
                    self.peers.mark(migration)
            case Kind.CONFIGURATION:
                self.configurations.pop(key.name, None)
                # Without the default all others are doubtful; the one that is gone is not.
                self._doubt(key.name)
                self.doubtful &= self.configurations.keys()
            case _:
                assert_never(kind)

    def forget(self, kind: Kind, key: ObjectKey, last: Version) -> bool:
        """Take in that this very object is gone; return whether it was known."""
        is_known = self._versions[kind].bury(key, last)
        if is_known:
            self.drop(kind, key)
        return is_known

    def missing(
        self, kind: Kind, existing: Mapping[ObjectKey, str], version: int
    ) -> list[tuple[ObjectKey, Version]]:
        """Return what a list of this version does not hold and nothing newer told us of."""
        return self._versions[kind].missing(existing, version)

    def take_application(self, application: Application) -> None:
        """Take in how the newest apply of ``default`` went."""
        self.application = application
        self.doubtful.add(DEFAULT_CONFIGURATION)

    def take_paused(self, namespaces: frozenset[str]) -> None:
        """Take in which namespaces hold the brake; ``default`` carries it to the agents."""
        self.paused = namespaces
        self.doubtful.add(DEFAULT_CONFIGURATION)

    def is_rewound(self, kind: Kind, version: int) -> bool:
        """Take in a list's version; return whether history was put back before it."""
        return self._versions[kind].is_rewound(version)

    def rewind(self, kind: Kind) -> None:
        """Take whatever comes next of a kind as news."""
        self._versions[kind].rewind()

    def take_doubtful(self) -> set[str]:
        """Return, and take off the list, the configurations to be judged again."""
        # One that has gone meanwhile has no status that could be written.
        taken, self.doubtful = self.doubtful & self.configurations.keys(), set()
        return taken

    def take_unreported(self) -> set[tuple[Kind, ObjectKey]]:
        """Return, and take off the list, the objects of whose faults nobody was told."""
        taken, self.unreported = self.unreported & self.unreadable.keys(), set()
        return taken

    def recall(self) -> None:
        """Doubt all configurations, and report all that is unreadable, once more.

        What was taken off these lists may have waited in a queue that was cleared since, when the
        replica lost its Lease.
        """
        self.doubtful = set(self.configurations)
        self.unreported = set(self.unreadable)

    def _read(self, kind: Kind, key: ObjectKey, raw: RawObject) -> Unreadable | None:
        match kind:
            case Kind.ENDPOINT:
                endpoint = parse.endpoint(raw)
                if isinstance(endpoint, Unreadable):
                    return endpoint
                self.resolver.put_endpoint(endpoint)
                self.sharing.put(endpoint)
                self.peers.put(endpoint)
            case Kind.MIGRATION:
                migration = parse.migration(raw)
                if isinstance(migration, Unreadable):
                    self.resolver.put_unreadable(key, migration.migration_uid)
                    return migration
                is_new = key not in self.resolver.index.migrations
                self.resolver.put_migration(migration)
                if is_new:
                    self.peers.mark(migration)
            case Kind.CONFIGURATION:
                configuration = parse.configuration(raw)
                if isinstance(configuration, Unreadable):
                    return configuration
                self.configurations[key.name] = configuration
                # Each node's configuration is judged together with the default.
                self._doubt(key.name)
            case _:
                assert_never(kind)
        return None

    def _doubt(self, changed: str) -> None:
        """Doubt a configuration, and all where the default has changed."""
        self.doubtful |= (
            self.configurations.keys() if changed == DEFAULT_CONFIGURATION else {changed}
        )
