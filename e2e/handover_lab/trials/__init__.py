"""One VM's migrations under test: traffic, faults, agents that die."""
