"""The contract of Handover: names, frozen types and condition reasons, shared by both programs.

The YAML beside this package is the schema that the API server enforces; tests prove that the two
agree.
"""

__version__ = "0.1.0"
