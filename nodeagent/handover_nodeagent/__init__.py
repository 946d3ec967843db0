"""The node agent: watches its node's endpoints and moves their routes at the switchover."""
