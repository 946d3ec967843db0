"""What is known of each migration as a whole; kept, since some of it is told by no object now.

Whether a source was ever there, since when it is gone, and that the migration counts as done: a
later version of the objects says none of these.
"""

import datetime as dt
from typing import Final

from handover_api.livemigration import LiveMigration, Outcome
from handover_api.names import ObjectKey
from handover_operator.roles import outcome
from handover_operator.roles.counts import Trait
from handover_operator.roles.index import Index, migration_id
from handover_operator.roles.outcome import Summary

SOURCE_GONE_FOR: Final = dt.timedelta(seconds=5)
"""So long a live target's source must be gone before an undriven migration counts as done."""


class Summaries:
    """A summary for each LiveMigration of *index* that was reviewed once."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._summaries: dict[ObjectKey, Summary] = {}
        self._had_source: set[ObjectKey] = set()
        self._gone_since: dict[ObjectKey, dt.datetime] = {}
        self._succeeded: set[ObjectKey] = set()

    def __getitem__(self, migration: ObjectKey) -> Summary:
        return self._summaries[migration]

    def get(self, migration: ObjectKey) -> Summary | None:
        """Return the summary of a migration; None: it was not reviewed so far."""
        return self._summaries.get(migration)

    def had_source(self, migration: ObjectKey) -> bool:
        """Its source had an endpoint at some time."""
        return migration in self._had_source

    def put(self, migration: LiveMigration, before: LiveMigration | None) -> None:
        """Take in *migration*, in place of *before*, before it is in the index."""
        # A restart finds in the status what was observed by the operator that ran before.
        if before is None and outcome.had_source(migration):
            self._had_source.add(migration.key)
        # Of another source nothing was observed.
        if before is not None and before.spec.source != migration.spec.source:
            self._had_source.discard(migration.key)

    def drop(self, migration: ObjectKey) -> None:
        """Forget a migration."""
        self._summaries.pop(migration, None)
        self._had_source.discard(migration)
        self._succeeded.discard(migration)
        self._gone_since.pop(migration, None)

    def due(self, now: dt.datetime) -> set[ObjectKey]:
        """Return the migrations to be reviewed though nothing changed."""
        return {key for key, since in self._gone_since.items() if now - since >= SOURCE_GONE_FOR}

    def wake(self) -> dt.datetime | None:
        """Return when the next migration will be due."""
        return min((since + SOURCE_GONE_FOR for since in self._gone_since.values()), default=None)

    def review(self, key: ObjectKey, now: dt.datetime) -> bool:
        """Sum up one migration anew; return whether that makes a difference."""
        migration = self._index.migrations[key]
        decided = outcome.decision(migration)
        # What the operator decided by itself holds until its status says so, and is read from
        # there.
        if decided is None and key in self._succeeded:
            decided = Outcome.SUCCEEDED
        traits = self._index.traits_of_members(key)
        if Trait.SOURCE in traits:
            self._had_source.add(key)
        traits |= self._index.traits_of_carriers(migration_id(migration))
        summary = Summary(decided, traits)
        if not outcome.has_lost_source(migration, summary, had_source=key in self._had_source):
            self._gone_since.pop(key, None)
        elif now - self._gone_since.setdefault(key, now) >= SOURCE_GONE_FOR:
            del self._gone_since[key]
            self._succeeded.add(key)
            summary = Summary(Outcome.SUCCEEDED, traits)
        if summary == self._summaries.get(key):
            return False
        self._summaries[key] = summary
        return True
