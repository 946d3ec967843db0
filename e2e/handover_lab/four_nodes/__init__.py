"""A lab of four nodes: a VM that moves between two of them, and two that only send to it."""
