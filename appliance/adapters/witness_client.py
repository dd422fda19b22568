"""Submits checkpoints to a witness by HTTP (c2sp.org/tlog-witness)."""

from __future__ import annotations

import ssl
from typing import Final

import httpx

from appliance.adapters.ed25519 import verify
from appliance.adapters.witness_address import WitnessAddress
from appliance.ledger.cosignature import CosignatureVerifier
from appliance.ledger.witnessing import TEXT_CONTENT_TYPE, Answer
from appliance.node.witness_ports import WitnessUnreachable

ANSWER_BYTES_MAX: Final = 64 * 1024  # an answer is some signature lines
IDLE_S: Final = 4.0  # a connection is given up before servers close it, of which the usual ones wait 5 s


class WitnessClient:
    """A `Witness` of `appliance.node.witness_ports`, over one connection that is kept while it is used.

    Its certificate, if any, is checked against the system's authorities. No proxy and no redirection is followed: the
    prefix in the settings is where it is.
    """

    def __init__(self, address: WitnessAddress) -> None:
        self.verifier: Final = CosignatureVerifier(address.key, verify)
        self._url = f"{address.url}/add-checkpoint"
        self._client = httpx.AsyncClient(
            verify=address.url.startswith("https:") and ssl.create_default_context(),  # which takes 25 ms to make
            timeout=None,  # noqa: S113 - who asks bounds the whole of it
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=IDLE_S),
            follow_redirects=False,
            trust_env=False,
            headers={
                "User-Agent": "scribe-ledger",
                "Content-Type": TEXT_CONTENT_TYPE,
                "Accept-Encoding": "identity",
            },
        )

    async def submit(self, body: bytes) -> Answer:
        """Submit an add-checkpoint request. Raises `WitnessUnreachable`."""
        try:
            async with self._client.stream("POST", self._url, content=body) as response:
                answer = bytearray()
                async for chunk in response.aiter_raw():  # unpacked, a few bytes could fill the memory
                    answer += chunk
                    if len(answer) > ANSWER_BYTES_MAX:
                        raise WitnessUnreachable(f"its answer has more than {ANSWER_BYTES_MAX} bytes")
                content_type = response.headers.get("content-type", "")
                return Answer(response.status_code, content_type, bytes(answer))
        except (httpx.HTTPError, httpx.InvalidURL) as error:  # the latter for a redirection to nowhere
            raise WitnessUnreachable(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()
