"""The state machine of one endpoint: ``step`` takes one event and returns what follows.

Theory of operation. A VM that migrates exists twice for a while: its pod on the source node and
its pod on the target node, both with the same address. Only one may attract the traffic, and
only the packets of the guest tell which. So the target starts silent (Target: no route, but
listening), and the guest's announcement, not the API, puts its routes in, with elevated priority
(Live), so that they win against those of the source that are still there. When the API says that
the migration succeeded, the elevated routes outlive the convergence of the other nodes
(TimeWait) and then become normal ones (Base).

The API never takes out a route on its word alone: a guest that should be gone is asked first
(Asking), and one that answers keeps its routes and is asked again later. A guest that is silent
loses them (Withdrawn), and the endpoint listens on, in case it comes back.

A guest that answers against the API's word is in doubt. So is then what the API said of the other
side: nobody has asked a source that was told that the migration failed. Therefore a TimeWait in
doubt never ends by its timer: the elevated routes stay until the API says something else.

Between the switchover and the last router that follows, packets still come to the source's node,
where the guest is no more. The target's agent tells the source's as soon as its own routes are in,
and the source sends on what comes (Redirected): its routes keep their priority and lead to the
target's node. Nobody is asked first, since each packet until an answer would be lost; but the guest
is asked all the time, and one that answers has its route at once, and the other side is told. Where
the migration is rolled back the same happens the other way round. A peer that says something else
than the API has the guest asked, and where it is silent the redirect stays: a guest that is not
here is better served elsewhere. Once the API agrees, the routes become private: no other node comes
this way any more, and those that are late find a way on until the endpoint and the convergence time
are over.

That a peer has the guest may be said late, and nothing in the word tells: the API says it until it
has heard of the guest's return, and may say it once more with the echo of that very report. So a
guest that was found here once although that peer had it is asked before the peer is believed again.
One that answers has not moved: nothing changes, and nobody is told. Else both sides might send on
to each other, and two that each find the guest would tell each other for ever.

Nothing here waits: a timer or an announcement that comes late carries the number of an older
episode and changes nothing.

Where to read on: an event (``events.py``; those of the API are made by ``inputs.py``) meets a
machine (``machine.py``). ``table.py`` has the cell of each pair, ``step.py`` carries it out and
returns the next machine with its commands (``commands.py``). Routes, listening and the timer
(``timers.py``) follow from the machine alone. ``restart.py`` makes the first machine of an endpoint
from what is found, and ``drawing.py`` draws docs/states.md.
"""

from handover_nodeagent.fsm.step import FIRST_ASK_INTERVAL, LONGEST_ASK_INTERVAL, Step, step

__all__ = ["FIRST_ASK_INTERVAL", "LONGEST_ASK_INTERVAL", "Step", "step"]
