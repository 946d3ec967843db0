"""The routes of this node's endpoints: added, removed, and others' parked and given back."""
