"""What is tried again: how long to wait and how often (pure), and the timers that keep to it."""
