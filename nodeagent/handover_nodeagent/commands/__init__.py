"""What a person types on a node, beside ``run``: none of it changes anything."""
