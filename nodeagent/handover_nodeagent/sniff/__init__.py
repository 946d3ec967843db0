"""Hears a guest announce itself, and asks it to.

A frame comes in at ``capture``, past the kernel's ``packet_filter``; ``frames`` reads it,
``verdict`` judges it, and ``listener`` tells its sink. ``probe`` says when a guest is asked,
``questions`` with which frames.
"""
