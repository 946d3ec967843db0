"""The routes of this node's endpoints: added, removed, and others' parked and given back.

``host_routes`` has class ``HostRoutes``, which decides what is applied and in which order;
``route_writer`` adds and removes ours, ``foreign`` parks others'. ``known`` is what there is
(``observed``, ``observed_foreign``, ``attributes``, ``collisions``), ``steps`` what may be done to
it. The kernel's own table is read and asked by ``kernel/route_lookup.py``.
"""
