"""No salt is ever given twice, whatever the sizes of the writes."""

from appliance.ledger.commands import SALT_BYTES
from appliance.node.salts import POOL_SALTS, SaltPool


def test_each_salt_is_given_once() -> None:
    pool = SaltPool()
    seen: set[bytes] = set()
    given = 0
    for count in (1, 255, 1, POOL_SALTS, 3, 1000, 1, *([7] * 200)):
        salts = pool.take(count)
        assert len(salts) == SALT_BYTES * count
        seen.update(salts[n : n + SALT_BYTES] for n in range(0, len(salts), SALT_BYTES))
        given += count
    assert len(seen) == given
