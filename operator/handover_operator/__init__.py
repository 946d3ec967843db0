"""The operator: decides who is source and who is target, and says so on the endpoints."""
