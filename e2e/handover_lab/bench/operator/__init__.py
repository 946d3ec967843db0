"""`make bench-operator`: the real operator on a real API server, beside bare requests to it."""
