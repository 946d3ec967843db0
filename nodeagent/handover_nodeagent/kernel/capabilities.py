"""Which privileges this process has, as a sentence."""


def missing() -> str:
    """Name the capabilities that are missing and what does not work without; "" if none."""
    raise NotImplementedError
