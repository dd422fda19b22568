"""What a peer asks for by name is carried out by who put the name on the driver's list."""

from __future__ import annotations

from pathlib import Path

import pytest
from driver_rig import Rig

from appliance.tables.errors import ApplianceError

pytestmark = pytest.mark.anyio


async def test_a_call_goes_to_who_serves_its_name(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.driver.start()

    async def serve(sender_node_id: int, body: bytes) -> bytes:
        return b"%d %b" % (sender_node_id, body)

    rig.driver.calls["one"] = serve
    try:
        assert await rig.desk.on_call(2, "one", b"x") == b"2 x"
        with pytest.raises(ApplianceError, match="Node 1 does not know the call 'two'") as caught:
            await rig.desk.on_call(2, "two", b"x")
        assert caught.value.code == "conflict"
    finally:
        await rig.driver.stop()
