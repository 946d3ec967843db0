"""Who is source and who is target, and how it ended: values and decisions, no effects.

rules.py decides for one endpoint, outcome.py how a migration ends and whom to tell first.
resolver.py asks both for what a change can affect, which it finds by index.py; the values are those
of model.py.
"""
