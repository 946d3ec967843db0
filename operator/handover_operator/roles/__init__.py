"""Who is source and who is target, and how it ended: values and decisions, no effects."""
