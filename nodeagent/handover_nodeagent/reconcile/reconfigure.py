"""Another configuration, or other namespaces that are paused: what follows, and for whom alone.

While paused all is left as it is, as if no agent ran; the end is like an agent's restart. What the
kernel has is read under the settings that it was written under, then moved.
"""

from typing import Final

import structlog

from handover_api.configuration import Mode, Settings
from handover_nodeagent import metrics
from handover_nodeagent.reconcile.endpoint_sink import EndpointSink
from handover_nodeagent.reconcile.lifecycle import Lifecycle
from handover_nodeagent.reconcile.loop import Reconciler

_log: Final = structlog.get_logger()


class Reconfiguration:
    """Has a reconciler follow other settings, and touch nothing that they do not concern."""

    def __init__(self, reconciler: Reconciler, lifecycle: Lifecycle, sink: EndpointSink) -> None:
        """What was told to *sink* while paused counts from the end of that on."""
        self._reconciler = reconciler
        self._lifecycle = lifecycle
        self._sink = sink
        self._written_under = reconciler.settings

    @property
    def settings(self) -> Settings:
        """What is in force."""
        return self._reconciler.settings

    @property
    def misconfigured(self) -> str:
        """Why the newest configuration does not count; "" when it does."""
        return self._reconciler.misconfigured

    @property
    def paused(self) -> frozenset[str]:
        """The namespaces whose endpoints are left as they are."""
        return self._reconciler.enforcer.paused

    def configure(self, settings: Settings, misconfigured: str = "") -> None:
        """Follow *settings*; *misconfigured* says why newer ones do not count."""
        reconciler = self._reconciler
        reconciler.misconfigured = misconfigured
        metrics.CONFIGURATION.set(not misconfigured)
        if reconciler.settings != settings:
            _log.info("configured", **settings.to_object())
            self._change(reconciler.settings, settings)
            reconciler.advertising.configure(settings)
        reconciler.report(reconciler.endpoints)

    def pause(self, namespaces: frozenset[str]) -> None:
        """Leave the endpoints of *namespaces* as they are, and go on with those of others."""
        reconciler, enforcer = self._reconciler, self._reconciler.enforcer
        concerned = enforcer.paused ^ namespaces
        endpoints = [one for one in reconciler.endpoints.values() if one.key.namespace in concerned]
        # What their guests said before still counts.
        for endpoint in endpoints:
            reconciler.catch_up(endpoint)
            reconciler.cutovers.exports.end(endpoint.key)
        enforcer.paused = namespaces
        with enforcer.reconfigured(reconciler.settings):
            for endpoint in endpoints:
                endpoint.is_paused = endpoint.key.namespace in namespaces
                reconciler.routes.desired.put(endpoint.local(reconciler.settings))
                if reconciler.leaves(endpoint.key):
                    reconciler.follow_machine(endpoint)
                else:
                    self._lifecycle.start(endpoint.object, endpoint.record())
        self._sink.confirm()
        reconciler.advertising.refresh()
        reconciler.report(one.key for one in endpoints)

    def _change(self, before: Settings, settings: Settings) -> None:
        if before.mode is not Mode.PAUSED:
            self._written_under = before
        elif settings.mode is not Mode.PAUSED:
            # What the kernel has says what it means under the settings it was written under.
            resumed = self._written_under.model_copy(update={"mode": settings.mode})
            self._switch(before, resumed)
            before = resumed
        if before != settings:
            self._switch(before, settings)

    def _switch(self, before: Settings, settings: Settings) -> None:
        reconciler = self._reconciler
        reconciler.settings = settings
        is_resumed = before.mode is Mode.PAUSED and settings.mode is not Mode.PAUSED
        for endpoint in reconciler.endpoints.values():
            reconciler.catch_up(endpoint)
            # As it was meant; under other settings nobody may write at all.
            reconciler.cutovers.exports.end(endpoint.key)
        with reconciler.enforcer.reconfigured(settings):
            for endpoint in tuple(reconciler.endpoints.values()):
                endpoint.admission = reconciler.interfaces.admit(endpoint.object, endpoint.link)
                reconciler.routes.desired.put(endpoint.local(settings))
                if is_resumed and not endpoint.is_paused:
                    self._lifecycle.start(endpoint.object, endpoint.record())
        reconciler.peers.configure()
        # Only now: prepared cutovers carry the new metrics.
        for endpoint in reconciler.endpoints.values():
            reconciler.follow_machine(endpoint)
        if is_resumed:
            self._sink.confirm()
