"""What was said of which object, so that it is said once."""

from collections.abc import Hashable


class Said:
    """By the uid of the object; what is gone is to be forgotten."""

    def __init__(self) -> None:
        self._by_uid: dict[str, set[Hashable]] = {}

    def __len__(self) -> int:
        return len(self._by_uid)

    def is_news(self, uid: str, what: Hashable) -> bool:
        """Whether this was never said of an object; from now on it was."""
        said = self._by_uid.setdefault(uid, set())
        before = len(said)
        said.add(what)
        return len(said) > before

    def forget(self, uid: str) -> None:
        """Take in that an object is gone."""
        self._by_uid.pop(uid, None)

    def clear(self) -> None:
        """Forget all."""
        self._by_uid.clear()
