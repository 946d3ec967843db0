"""What may keep an agent from working on this node, looked at before anybody depends on it."""
