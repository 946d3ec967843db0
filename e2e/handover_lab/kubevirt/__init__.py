"""A KubeVirt that is simulated, with pods, a VM and a network that are real."""
