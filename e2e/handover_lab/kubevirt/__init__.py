"""A KubeVirt that is played, with pods, a VM and a network that are real."""
