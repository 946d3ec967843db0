"""What the lab's tests work with, beside the lab itself."""
