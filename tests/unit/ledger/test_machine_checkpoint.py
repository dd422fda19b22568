"""Published trees, and what witnesses say of them, as the machine keeps them."""

from __future__ import annotations

import msgspec
import pytest
from ledger_rig import START_US, Rig, put

from appliance.ledger.commands import (
    NOTHING_PUBLISHED,
    CosignaturesCommand,
    PublishedTree,
    UnknownCommand,
    decode_command,
    encode_checkpoint,
    encode_cosignatures,
)

LINES = ("— w1.example AAAAAAAA", "— w2.example AAAAAAAA")


def publish(rig: Rig) -> PublishedTree:
    """One more leaf, published."""
    rig.write(put(f"k{rig.machine.tree_size}"))
    rig.at_us += 1
    rig.apply(encode_checkpoint(rig.at_us))
    return rig.machine.published


def cosign(rig: Rig, tree: PublishedTree, *lines: str) -> None:
    size = rig.machine.tree_size
    changes = rig.apply(encode_cosignatures(rig.at_us, tree, lines))
    assert (changes.leaves, changes.refusals, rig.machine.tree_size) == ((), (), size), "no leaf, no audit row"


def test_a_checkpoint_publishes_what_has_grown() -> None:
    rig = Rig()
    rig.apply(encode_checkpoint(rig.at_us))
    assert rig.machine.published == NOTHING_PUBLISHED
    first = publish(rig)
    assert first == PublishedTree(1, rig.machine.root(), 3, START_US + 1)
    rig.apply(encode_checkpoint(rig.at_us + 1))
    assert rig.machine.published == first, "nothing has grown"


def test_cosignatures_stay_with_their_tree_while_others_are_published() -> None:
    rig = Rig()
    first = publish(rig)
    cosign(rig, first, LINES[0])
    assert (rig.machine.cosigned, rig.machine.cosignatures) == (first, LINES[:1])
    second, third = publish(rig), publish(rig)
    assert rig.machine.cosigned == first
    cosign(rig, second, *LINES)
    assert (rig.machine.cosigned, rig.machine.cosignatures) == (second, LINES), "witnesses may take their time"
    cosign(rig, second, LINES[1])
    assert rig.machine.cosignatures == LINES[1:], "the last word on a tree is what the leader said last"
    cosign(rig, first, LINES[0])
    assert (rig.machine.cosigned, rig.machine.cosignatures) == (second, LINES[1:]), "they never go back"
    cosign(rig, PublishedTree(4, bytes(32), 9, START_US), LINES[0])
    assert rig.machine.cosigned == second, "of what was never published they can say nothing"
    rig.restart()
    assert (rig.machine.published, rig.machine.cosigned, rig.machine.cosignatures) == (third, second, LINES[1:])


TREE = PublishedTree(3, bytes(32), 9, START_US)


@pytest.mark.parametrize(
    "command",
    [
        CosignaturesCommand(1, START_US, PublishedTree(0, bytes(32), 9, START_US), LINES),
        CosignaturesCommand(1, START_US, PublishedTree(2**53, bytes(32), 9, START_US), LINES),
        CosignaturesCommand(1, START_US, PublishedTree(3, bytes(31), 9, START_US), LINES),
        CosignaturesCommand(1, START_US, PublishedTree(3, bytes(32), 0, START_US), LINES),
        CosignaturesCommand(1, START_US, PublishedTree(3, bytes(32), 9, -1), LINES),
        CosignaturesCommand(1, START_US, TREE, ()),
        CosignaturesCommand(1, START_US, TREE, LINES * 33),
        CosignaturesCommand(1, START_US, TREE, ("x" * 1025,)),
        CosignaturesCommand(1, START_US, TREE, ("x\ny",)),
        CosignaturesCommand(2, START_US, TREE, LINES),
        CosignaturesCommand(1, -1, TREE, LINES),
    ],
)
def test_what_is_no_cosignatures_command_is_refused(command: CosignaturesCommand) -> None:
    with pytest.raises(UnknownCommand):
        decode_command(msgspec.msgpack.encode(command))


def test_an_element_more_is_refused() -> None:
    data = ["cosignatures", 1, START_US, [*msgspec.to_builtins(TREE)[:1], bytes(32), 9, START_US, 0], list(LINES)]
    with pytest.raises(UnknownCommand):
        decode_command(msgspec.msgpack.encode(data))
    assert decode_command(encode_cosignatures(START_US, TREE, LINES)) == CosignaturesCommand(1, START_US, TREE, LINES)
