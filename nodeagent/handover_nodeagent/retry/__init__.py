"""The only way to wait: how long and how often (pure), and the timers that keep to it."""
