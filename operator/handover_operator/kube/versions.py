"""Which version of each object of a kind was seen last, and which objects are gone. Pure.

Versions come twice and in any order, from watches, lists and answers to requests; only a newer one
counts. An answer may even be older than the news that its object is gone, and must not bring it
back: nothing would ever tell of its end again.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from handover_api.names import ObjectKey
from handover_operator.roles.parse import RawObject

GRAVES: Final = 10_000
"""So many ends are remembered; a request is answered long before so many more come."""


@dataclass(frozen=True, slots=True)
class Version:
    """Of one object; the numbers of one kind are in order."""

    uid: str
    number: int


class Versions:
    """The newest versions of all objects of a kind."""

    def __init__(self) -> None:
        self._newest: dict[ObjectKey, Version] = {}
        # By uid: what is made anew under an old name is not held up by the end of the former one.
        self._ends: OrderedDict[str, int] = OrderedDict()
        self._listed = 0

    def __len__(self) -> int:
        """Count the objects that exist."""
        return len(self._newest)

    def uid(self, key: ObjectKey) -> str | None:
        """Return the uid of an object; None when it is unknown."""
        known = self._newest.get(key)
        return None if known is None else known.uid

    def newest(self, key: ObjectKey) -> Version | None:
        """Return the newest version of an object; None when it is unknown."""
        return self._newest.get(key)

    def take(self, key: ObjectKey, version: Version) -> bool:
        """Take in that an object has this version; return whether that is no old news."""
        known = self._newest.get(key)
        if known is not None and version.number < known.number:
            return False
        # A late answer must not bring back what has ended.
        if version.number <= self._ends.get(version.uid, -1):
            return False
        self._newest[key] = version
        return True

    def bury(self, key: ObjectKey, last: Version) -> bool:
        """Take in that an object ended with version *last*; return whether it was known.

        One that left what is watched, and comes back to it, comes with a later version.
        """
        self._ends[last.uid] = last.number
        if len(self._ends) > GRAVES:
            self._ends.popitem(last=False)
        if self.uid(key) != last.uid:
            return False
        del self._newest[key]
        return True

    def missing(
        self, existing: Mapping[ObjectKey, str], number: int
    ) -> list[tuple[ObjectKey, Version]]:
        """Return what a list of version *number* does not hold, with that as its last version.

        What is known by something newer than the list is not missing.
        """
        return [
            (key, Version(known.uid, number))
            for key, known in self._newest.items()
            if known.number <= number and existing.get(key) != known.uid
        ]

    def is_rewound(self, number: int) -> bool:
        """Take in a list's version; return whether it is older than an earlier list's.

        Lists are consistent, so that happens only where the API server's history was put back.
        Two lists that were under way at once may look like it, which costs one list more.
        """
        is_older = number < self._listed
        self._listed = number
        return is_older

    def rewind(self) -> None:
        """Take whatever comes next as news: the numbers have begun anew from an older one."""
        # The uids stay: of the same object only the numbers have begun anew.
        self._newest = {key: Version(known.uid, 0) for key, known in self._newest.items()}
        self._ends.clear()

    def clear(self) -> None:
        """Forget all; what has ended stays so."""
        self._newest.clear()


def version_of(raw: RawObject) -> Version:
    """Return the version of an object as the API server wrote it."""
    metadata = raw["metadata"]
    # A number that grows: the API server takes it from etcd, where each change has the next one.
    return Version(metadata["uid"], int(metadata["resourceVersion"]))
