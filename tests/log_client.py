"""A stranger to the ledger: holds the log's verifier key and nothing else, and takes the log's word for nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

from appliance.adapters.ed25519 import verify
from appliance.ledger.bundles import check_bundle
from appliance.ledger.checkpoint import Checkpoint, open_checkpoint
from appliance.ledger.merkle import (
    MerkleFrontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from appliance.ledger.note import Ed25519Verifier, parse_verifier_key
from appliance.ledger.tile_paths import BundleId, TileId, bundles, format_path, tile_width, tiles
from appliance.ledger.tiles import TileNodes, check_tiles

Fetch = Callable[[str], bytes]  # a path below the log's prefix -> the body of the answer


class LogClient:
    """Reads a tiled log as c2sp.org/tlog-tiles has it.

    Args:
        fetch: gets a resource.
        verifier_key: the log's, as text.
    """

    def __init__(self, fetch: Fetch, verifier_key: str) -> None:
        self._fetch = fetch
        self._verifier = Ed25519Verifier(parse_verifier_key(verifier_key), verify)
        self._resource = cache(lambda resource: fetch(format_path(resource)))  # they never change

    def checkpoint(self) -> Checkpoint:
        """The latest checkpoint, once its signature has been found right."""
        return self.opened(self._fetch("checkpoint"))

    def opened(self, note: bytes) -> Checkpoint:
        """A checkpoint that came in another way. Raises what makes it none of this log."""
        return open_checkpoint(note, self._verifier).checkpoint

    def tile(self, tile: TileId) -> bytes:
        """A tile, not checked."""
        return self._resource(tile)

    def leaves(self, checkpoint: Checkpoint) -> Iterator[bytes]:
        """All leaves of a checkpoint's tree: tiles and bundles are held against its root, and so are the leaves."""
        for _ in check_tiles(checkpoint.size, checkpoint.root, self.tile):
            pass
        frontier = MerkleFrontier()
        for bundle in bundles(checkpoint.size):
            for leaf in self.bundle(bundle):
                frontier.append(leaf_hash(leaf))
                yield leaf
        assert (frontier.size, frontier.root()) == (checkpoint.size, checkpoint.root)

    def bundle(self, bundle: BundleId) -> list[bytes]:
        """The leaves of a bundle, held against the tile below."""
        return check_bundle(bundle, self._resource(bundle), self.tile(TileId(0, bundle.index, bundle.width)))

    def leaf(self, leaf_index: int, checkpoint: Checkpoint) -> bytes:
        """A leaf, once it was found in the checkpoint's tree by a path that is put together from tiles."""
        index, position = divmod(leaf_index, 256)
        leaf = self.bundle(BundleId(index, tile_width(0, index, checkpoint.size)))[position]
        path = inclusion_proof(leaf_index, checkpoint.size, TileNodes(checkpoint.size, self.tile))
        assert verify_inclusion(leaf_hash(leaf), leaf_index, checkpoint.size, path, checkpoint.root)
        return leaf

    def checkpoint_of(self, size: int, latest: Checkpoint) -> Checkpoint:
        """What a checkpoint of an earlier size must have said, if the latest is right."""
        nodes = TileNodes(latest.size, self.tile)
        earlier = Checkpoint(latest.origin, size, root_of(size, nodes))
        self.expect_continued(earlier, latest)
        return earlier

    def expect_continued(self, earlier: Checkpoint, later: Checkpoint) -> None:
        """See that the later tree only adds leaves to the earlier, by a proof that is put together from tiles."""
        path = consistency_proof(earlier.size, later.size, TileNodes(later.size, self.tile))
        assert verify_consistency(earlier.size, later.size, path, earlier.root, later.root)

    def all_resources(self, checkpoint: Checkpoint) -> list[str]:
        """Paths of everything that makes up a checkpoint's tree."""
        return [format_path(one) for one in (*tiles(checkpoint.size), *bundles(checkpoint.size))]
