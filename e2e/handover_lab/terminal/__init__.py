"""What a person sees while the lab works."""
