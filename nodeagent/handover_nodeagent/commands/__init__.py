"""What a person types on a node, beside ``run``."""
