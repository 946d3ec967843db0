"""`make bench`: the real agent beside a C program that does the least of its work."""
