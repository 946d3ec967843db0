"""`make bench-outage`: what real guests' migrations cost their network, whatever carries routes."""
