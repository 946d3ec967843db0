"""Who listens to which guest, and asks it: derived from each machine after each step."""

from handover_api.configuration import Mode, Settings
from handover_nodeagent.fsm import commands
from handover_nodeagent.reconcile.endpoint import Endpoint
from handover_nodeagent.sniff import endpoint_listener
from handover_nodeagent.sniff.endpoint_listener import EndpointListener, EventSink


class Listening:
    """The listeners of all endpoints; what they hear goes to *sink*."""

    def __init__(self, sink: EventSink) -> None:
        self._sink = sink

    def follow(self, endpoint: Endpoint, settings: Settings) -> None:
        """Listen for what the machine waits for, or not at all; again, it changes nothing."""
        spec = endpoint.listen_spec(settings)
        if spec is None:
            if endpoint.listener:
                endpoint.listener.close()
            endpoint.listener = None
        elif endpoint.listener:
            # It outlives the machine's episodes: no socket is opened or closed between them.
            endpoint.listener.update(spec)
        else:
            endpoint.listener = EndpointListener(endpoint.key, spec, self._sink)

    def ask(self, endpoint: Endpoint, command: commands.Command) -> None:
        """Send the guest what *command* wants sent."""
        # Without an interface nobody can be asked; the machine's timer ends the asking.
        if endpoint.listener is None:
            return
        if isinstance(command, commands.StartProbes):
            endpoint.listener.start_probes()
        elif isinstance(command, commands.RenewProbes):
            endpoint.listener.renew_probes()
        elif isinstance(command, commands.AskGuest):
            endpoint.listener.ask()

    def announce_gateway(self, endpoint: Endpoint, settings: Settings) -> None:
        """Tell the guest where its gateway is now, also where nobody listens to it."""
        if settings.mode is not Mode.ACTIVE or endpoint.is_paused:
            return
        if endpoint.listener:
            endpoint.listener.correct()
        elif endpoint.link:
            endpoint_listener.send_corrections(endpoint.listen_spec_on(endpoint.link, settings))
