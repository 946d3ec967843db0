"""The loop: what happened becomes state, state becomes routes, and then it is told."""
