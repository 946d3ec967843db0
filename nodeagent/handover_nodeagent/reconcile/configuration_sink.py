"""What the API says of HandoverConfigurations, and which settings are in force for this node.

A configuration that this node cannot follow changes nothing; and no agent acts before it is
definite how it is configured, as built-in defaults are no answer.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from handover_api import names, wording
from handover_api.names import ObjectKey
from handover_nodeagent import configuration, metrics
from handover_nodeagent.api import parse
from handover_nodeagent.configuration import Layers
from handover_nodeagent.memory.files import Memory
from handover_nodeagent.reconcile.reconfigure import Reconfiguration

_log: Final = structlog.get_logger()


class ConfigurationSink:
    """Takes what the watch of the HandoverConfigurations says; two of them concern this node.

    ``configured`` is set when it is definite which configuration holds.
    """

    def __init__(
        self,
        layers: Layers,
        memory: Memory,
        reconfiguration: Reconfiguration,
        consider_uninstall: Callable[[Mapping[str, str]], None],
    ) -> None:
        """Call *consider_uninstall* with the annotations of ``default``, {} where there is none."""
        self.configured = asyncio.Event()
        self._layers = layers
        self._memory = memory
        self._reconfiguration = reconfiguration
        self._consider_uninstall = consider_uninstall
        self._wanted = {names.DEFAULT_CONFIGURATION, layers.own}
        self._listed: set[str] = set()
        self._is_complete = False

    def put(self, raw: Mapping[str, object]) -> None:
        """Take in one version of a configuration."""
        found = parse.configuration(raw)
        is_default = found.name == names.DEFAULT_CONFIGURATION
        # Before its settings: what they change must not touch a namespace that is paused.
        if is_default:
            self._pause(found.paused_namespaces)
        if found.name in self._wanted:
            self._listed.add(found.name)
            metrics.GENERATION.labels(found.name).set(found.generation)
            self._replace(found.name, configuration.layer(found.spec, found.annotations))
        # After its settings: they say what an uninstall is to do.
        if is_default:
            self._consider_uninstall(found.annotations)
        self._decide()

    def drop(self, key: ObjectKey, uid: str) -> None:  # noqa: ARG002  the sink's form
        """Take in that a configuration is gone."""
        if key.name in self._wanted:
            self._listed.discard(key.name)
            self._replace(key.name, None)

    def synced(self) -> None:
        """Know that all configurations have been told; what was only remembered is gone."""
        # Told of no deletion: it happened while no agent watched.
        for name in self._layers.specs.keys() - self._listed:
            self._replace(name, None)
        if names.DEFAULT_CONFIGURATION not in self._listed:
            self._consider_uninstall({})
        self._is_complete = True
        self._decide()

    def outage(self, reason: str, *, is_absent: bool) -> None:
        """Know that nobody can say now how this node is configured, or that no such kind is."""
        _log.warning("outage", kind="HandoverConfiguration", why=reason)
        if is_absent:
            self._is_complete = True
            self._decide()

    def unready(self) -> str:
        """Say why nobody may rely on this agent for its configuration's sake; "" when all may."""
        if self._layers.are_remembered or self.configured.is_set():
            return ""
        why = self._reconfiguration.misconfigured
        return why or "nobody has told so far how this node is configured"

    def _decide(self) -> None:
        """Let the agent begin when it is definite which configuration holds.

        That there is none, or no such kind, is an answer only where nobody is about to apply one.
        """
        layers = self._layers
        has_default = names.DEFAULT_CONFIGURATION in layers.specs
        # Without an older one that could stay, an invalid configuration is none at all.
        is_first_invalid = not layers.are_remembered and bool(self._reconfiguration.misconfigured)
        if self._is_complete and (has_default or not layers.needs_default) and not is_first_invalid:
            if not self.configured.is_set() and not layers.specs:
                # The next start need not wait for what it knows.
                self._memory.keep_configuration({})
            self.configured.set()

    def _pause(self, namespaces: frozenset[str] | None) -> None:
        """Leave the endpoints of *namespaces* as they are; None: what was told before holds."""
        if namespaces is not None and namespaces != self._reconfiguration.paused:
            named = wording.name_few(namespaces) or "none any more"
            _log.warning("namespaces_paused", namespaces=named)
            self._memory.keep_paused(namespaces)
            self._reconfiguration.pause(namespaces)

    def _replace(self, name: str, spec: Mapping[str, object] | None) -> None:
        if spec is None:
            self._layers.specs.pop(name, None)
            metrics.GENERATION.remove(name)
        else:
            self._layers.specs[name] = spec
        settings, why = self._layers.effective(self._reconfiguration.settings)
        if why:
            # The one that stays is the one to remember.
            _log.warning("configuration_refused", why=why)
        else:
            self._memory.keep_configuration(self._layers.specs)
        self._reconfiguration.configure(settings, why)
