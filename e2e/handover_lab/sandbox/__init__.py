"""Runs a command in namespaces that end with it."""
