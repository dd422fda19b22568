"""The only room that names concrete adapters."""

from appliance.wiring.directory import Place, claim, open_stores, whose
from appliance.wiring.node import run_node

__all__ = ["Place", "claim", "open_stores", "run_node", "whose"]
