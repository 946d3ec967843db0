"""rtnetlink: bytes to values and back, the request socket, dumps and subscriptions."""
