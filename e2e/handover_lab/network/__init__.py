"""The network between the nodes: namespaces, BGP speakers, traffic, and who saw what of it."""
