"""Asks the API server itself what it lets the agent do."""

import os
from typing import Final

from handover_nodeagent.api import access, credentials
from handover_nodeagent.api.client import ApiServer
from handover_nodeagent.api.errors import ApiError
from handover_nodeagent.commands.check import rights, traps
from handover_nodeagent.commands.check.findings import Finding, fail
from handover_nodeagent.commands.check.rights import Right

# A person waits: an API server that takes longer is a finding in itself.
_TIMEOUT: Final = 5.0


async def gather() -> list[Finding]:
    """Ask for each right that the agent uses."""
    try:
        found = credentials.find(os.environ)
    except access.Unconfigured as error:
        return [fail("API server", str(error), "run it in the agent's pod, or set KUBECONFIG")]
    async with ApiServer(found, timeout=_TIMEOUT) as api:
        try:
            allowed = {str(right): await _is_allowed(api, right) for right in rights.NEEDED}
        except ApiError as error:
            remedy = "check the network, the address and the credentials; routes are kept meanwhile"
            return [fail("API server", f"{found.url} does not answer: {error}", remedy)]
    return list(traps.rights(allowed))


async def _is_allowed(api: ApiServer, right: Right) -> bool:
    return rights.is_allowed(await api.create(rights.REVIEWS, rights.review(right)))
