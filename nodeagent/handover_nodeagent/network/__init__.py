"""What the node's network is to be: values and decisions; no socket, no loop, no clock.

``placement`` says which interface an endpoint has, ``gateways`` who asks its guest, ``admission``
which of its addresses count. ``desired`` says what routes, neighbor entries and ARP guard all of
them need together, and ``plan`` by which changes the kernel gets there.
"""
