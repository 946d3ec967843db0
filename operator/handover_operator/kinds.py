"""The three kinds of objects that the operator watches."""

import enum
from typing import Final

from handover_api import names


class Kind(enum.StrEnum):
    """A kind by its name in manifests; ``plural`` is its name in paths."""

    MIGRATION = "LiveMigration"
    ENDPOINT = "WorkloadEndpoint"
    CONFIGURATION = "HandoverConfiguration"

    @property
    def plural(self) -> str:
        """The kind as the API's paths spell it."""
        return _PLURALS[self]


_PLURALS: Final = {
    Kind.MIGRATION: names.LIVE_MIGRATIONS,
    Kind.ENDPOINT: names.WORKLOAD_ENDPOINTS,
    Kind.CONFIGURATION: names.CONFIGURATIONS,
}
