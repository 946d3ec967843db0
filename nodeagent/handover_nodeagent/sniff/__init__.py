"""Hears a guest announce itself, and asks it to.

A frame comes in at ``capture``, past the kernel's ``packet_filter``; ``frames`` reads it,
``verdict`` judges it, and ``listener`` tells its sink. A guest is asked by ``endpoint_listener``:
``probe`` says when, and ``arp_nd_questions`` makes the ARP request or neighbor solicitation.
"""
