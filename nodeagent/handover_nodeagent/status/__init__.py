"""What people and programs learn of the agent: status, Events, metrics, logs, health."""
