"""A Kubernetes cluster on one machine, and what its owner does to it."""
