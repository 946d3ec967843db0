"""What the objects' status says, and what is worth an Event: values and decisions, no effects."""
