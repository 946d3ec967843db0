"""`make demo`: a story, its timeline, its figures and its picture."""
