"""Faults worked into the decisive modules, which their tests must notice."""
