"""What the node's network is to be: values and decisions; no socket, no loop, no clock."""
