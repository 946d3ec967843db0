"""Programs that end with us, their share of the processors, and waiting for them."""
