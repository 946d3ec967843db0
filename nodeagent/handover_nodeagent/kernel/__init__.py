"""The kernel's side: one module per concept, each with what observes and what applies."""
