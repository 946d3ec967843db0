"""Condition types and their reasons: what ``kubectl describe`` and ``kubectl wait`` can meet."""

import enum


class MigrationCondition(enum.StrEnum):
    """Condition types of a LiveMigration."""

    SOURCE_RESOLVED = "SourceResolved"
    TARGET_RESOLVED = "TargetResolved"
    TARGET_READY = "TargetReady"
    CUT_OVER = "CutOver"
    CONVERGED = "Converged"
    FINISHED = "Finished"
    CONFLICTED = "Conflicted"
    SOURCE_LINGERS = "SourceLingers"


class EndpointCondition(enum.StrEnum):
    """Condition types of a WorkloadEndpoint."""

    PROGRAMMED = "Programmed"
    LISTENING = "Listening"
    STILL_ALIVE = "StillAlive"
    ADDRESS_NOT_ALLOWED = "AddressNotAllowed"
    ADDRESS_SHARED = "AddressShared"
    TARGET_TIMEOUT = "TargetTimeout"
    CONFIGURED = "Configured"


class ConfigurationCondition(enum.StrEnum):
    """Condition types of a HandoverConfiguration."""

    ACCEPTED = "Accepted"
