"""What the lab builds or finds before it can start: the parts of Kubernetes, and packages."""
