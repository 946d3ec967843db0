"""The agents' own distribution: host routes to guests that are away, on every other node.

Where no BGP speaker carries the routes, each agent reads from the API which endpoints are
*advertised* and on which node, and keeps ``<address> via <node>`` for each. A route is one metric
below its owner's, so that a node's own route wins where both have the same level, and it has a
protocol number that no speaker exports.

Three things decide, and :mod:`.resolver` joins them: the Nodes, the advertised endpoints, and the
HAVE messages that a target's agent sends at the switch. Such a message brings nothing along but the
news: what it fires, the API has told before. What nobody knows for sure changes nothing: until both
lists are complete, and while the API is out, no route is removed.
"""
