"""Who listens to which guest, and asks it: derived from each machine after each step."""

from handover_api.configuration import Mode, Settings
from handover_api.names import ObjectKey
from handover_nodeagent.fsm import commands
from handover_nodeagent.reconcile.endpoint import Endpoint
from handover_nodeagent.reconcile.last_frames import LastFrames
from handover_nodeagent.sniff import endpoint_listener
from handover_nodeagent.sniff.endpoint_listener import EndpointListener, EventSink


class Listening:
    """The listeners of all endpoints; what they hear goes to *sink*.

    ``last_frames`` has the times of those guests that are about to leave.
    """

    def __init__(self, sink: EventSink) -> None:
        self.last_frames = LastFrames()
        self._sink = sink
        self._listeners: dict[ObjectKey, EndpointListener] = {}

    def of(self, key: ObjectKey) -> EndpointListener | None:
        """Return the listener of an endpoint; None where nobody listens."""
        return self._listeners.get(key)

    def follow(self, endpoint: Endpoint, settings: Settings) -> None:
        """Listen for what the machine waits for, or not at all; again, it changes nothing."""
        spec, listener = endpoint.listen_spec(settings), self._listeners.get(endpoint.key)
        if spec is None:
            self._close(endpoint.key)
        elif listener:
            # It outlives the machine's episodes: no socket is opened or closed between them.
            listener.update(spec)
        else:
            self._listeners[endpoint.key] = EndpointListener(endpoint.key, spec, self._sink)
        self.last_frames.follow(endpoint, settings)

    def end(self, key: ObjectKey) -> None:
        """Listen to an endpoint's guest no more."""
        self._close(key)
        self.last_frames.end(key)

    def ask(self, endpoint: Endpoint, command: commands.Command) -> None:
        """Send the guest what *command* wants sent."""
        listener = self._listeners.get(endpoint.key)
        # Without an interface nobody can be asked; the machine's timer ends the asking.
        if listener is None:
            return
        if isinstance(command, commands.StartProbes):
            listener.start_probes()
        elif isinstance(command, commands.RenewProbes):
            listener.renew_probes()
        elif isinstance(command, commands.AskGuest):
            listener.ask()

    def ask_afresh(self, endpoint: Endpoint) -> None:
        """Start the fast series of probes again: the guest is on another interface now."""
        listener = self._listeners.get(endpoint.key)
        if listener:
            listener.start_probes()

    def announce_gateway(self, endpoint: Endpoint, settings: Settings) -> None:
        """Tell the guest where its gateway is now, also where nobody listens to it."""
        if settings.mode is not Mode.ACTIVE or endpoint.is_paused:
            return
        listener = self._listeners.get(endpoint.key)
        if listener:
            listener.correct()
        elif endpoint.link:
            endpoint_listener.send_corrections(endpoint.listen_spec_on(endpoint.link, settings))

    def _close(self, key: ObjectKey) -> None:
        listener = self._listeners.pop(key, None)
        if listener:
            listener.close()
