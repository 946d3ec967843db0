"""Hears a guest announce itself, and asks it to."""
