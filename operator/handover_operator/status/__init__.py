"""What the objects' status says, and what is worth an Event: values and decisions, no effects.

A LiveMigration's conditions are in conditions.py, the status around them in livemigration.py; a
HandoverConfiguration's in configuration.py. Nothing is decided here that agents act upon.
"""
