"""The direct path: agents tell each other who has a guest, sooner than the API could.

One principle: a message carries nothing to act by; it fires what the API has prepared. So none has
an address, a next hop or a metric, and none is believed but by the key that the API has given for
the very endpoint and migration that it speaks of. What the path misses, the API repairs.
"""
