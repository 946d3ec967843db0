"""`make demo`: what is shown, its timeline, its figures and its picture."""
