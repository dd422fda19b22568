"""Histories of client operations, and whether they are linearizable.

A history is a file of JSON lines: one object for each attempt of a client, in any order. Members:

| member | type | meaning |
|---|---|---|
| `client` | integer or string | who asked; for readers only, the checker looks at times |
| `call` | integer | when it was asked, on one monotonic clock for the whole history (any unit; ours is nanoseconds) |
| `return` | integer or null | when the answer was complete; null for `unknown` |
| `parts` | array | what was asked, all or nothing, in this order; more than one part is a batch |
| `outcome` | string | `ok`, `not_found`, `condition_failed`, `refused`, `unknown` |
| `versions` | array of integers or null | `ok` writes: the version that each part made; null where it was not told |
| `version`, `value` | integer, string | `ok` get: what was read |
| `current_version` | integer | `condition_failed`: what the refusing part found, 0 for absent; may be missing |
| `failed_position` | integer | `condition_failed`, `not_found` of a batch: the refusing part; may be missing |
| `idempotency_key` | string | attempts with the same key are one operation that takes effect at most once |
| `index`, `leaf_indexes` | integer, array of integers | the server's own order; not needed, see `order.py` |

A part is `{"op": "put", "key", "value", "if_version"?}`, `{"op": "delete", "key", "if_version"?}` or, alone,
`{"op": "get", "key"}`. `if_version` is the version that the key must have, 0 for absent or deleted. Members that
do not apply are left out. An operation comes before another if its `return` is smaller than the other's `call`; equal
times order nothing.

What operations mean (the model is a map from key to version and value, empty at first):

- Each put and each delete that takes effect makes the key's next version, from 1; a tombstone is a version too.
- `get` answers value and version of a present key, else `not_found`.
- `delete` of an absent key is `not_found`; that comes before its condition.
- `if_version` that does not hold is `condition_failed`; an absent key has version 0 there, whatever its tombstone has.
- Parts of a batch see what those before them did; one that is refused undoes all.
- `refused` surely had no effect. `unknown` has its effect at any time after `call`, or never.

`checker.check` gives a verdict, `history.read_history` and `write_history` do files, `recorder` makes histories of real
nodes.
"""
