"""`make bench` and `make bench-operator`: measured beside a floor of the same run."""
