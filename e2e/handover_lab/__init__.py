"""The lab: a real Kubernetes cluster, real VMs and real BGP on one machine."""
