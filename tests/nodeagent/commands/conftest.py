"""The commands see the same wire as the rooms that they show."""

from tests.nodeagent.sniff.conftest import wire

__all__ = ["wire"]
