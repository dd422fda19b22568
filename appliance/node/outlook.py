"""Whether a node that knows no leader can hope for one, and what an operator can do when it cannot."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from appliance.raft.messages import Configuration, Member, MemberRole

if TYPE_CHECKING:
    from appliance.node.driver import Driver

COMMAND: Final = "`appliance cluster recover --config FILE`"
ALL_LOST: Final = (
    "no node that answers holds data of the cluster: start one that does; when there is none, stop the node that held "
    "most, move what is kept in its damaged-* back in the place of its raft.db* and ledger.db*, and "
    f"{COMMAND} says what can be saved"
)


def way_out(driver: Driver) -> str:
    """What keeps a leader from being elected, and the command that helps, as a sentence without its full stop; empty
    when enough voters are there.

    A voter that has come back as another incarnation has no vote. When a majority has, no leader can be elected, ever;
    while others only cannot be reached, that is likely to end.
    """
    configuration = _latest(driver)
    voters = [member for member in configuration.members if member.role is MemberRole.VOTER]
    forgetful = [member.node_id for member in voters if _is_another(driver, member)]
    quorum = configuration.quorum()
    if not voters:
        return ALL_LOST if driver.founding is not None and driver.founding.lost else ""
    if len(voters) - len(forgetful) < quorum:
        return (
            f"{nodes_text(forgetful)} of {len(voters)} voters lost what they had promised, so that no leader can be "
            f"elected any more: stop the node that holds most, and {COMMAND} there says what making it the only voter "
            "may lose"
        )
    reached = driver.network.connected()
    away = [m.node_id for m in voters if m.node_id != driver.identity.node_id and m.node_id not in reached]
    if len(voters) - len({*forgetful, *away}) < quorum:
        return (
            f"{nodes_text(away)} of {len(voters)} voters cannot be reached: start them; only where their data are gone "
            f"for good, stop this node, and {COMMAND} says what making it the only voter may lose"
        )
    return ""


def _latest(driver: Driver) -> Configuration:
    """The latest configuration that this node knows: its own, or one that it was told."""
    known = [(hello.configuration, hello.configuration_index) for hello in driver.members.hellos.values()]
    if driver.core is not None:
        known.append((driver.core.state.configuration, driver.core.state.configuration_index))
    known = [each for each in known if each[0].members]
    return max(known, key=lambda each: (len(each[0].recoveries), each[1]), default=(Configuration(), 0))[0]


def _is_another(driver: Driver, member: Member) -> bool:
    """Whether a member is known to have come back as another incarnation."""
    if member.node_id == driver.identity.node_id:
        return member.incarnation != driver.identity.incarnation
    hello = driver.members.hellos.get(member.node_id)
    return hello is not None and hello.identity.incarnation != member.incarnation


def nodes_text(node_ids: Collection[int]) -> str:
    """Ids as they stand in a sentence."""
    return f"{'node' if len(node_ids) == 1 else 'nodes'} {', '.join(map(str, sorted(node_ids)))}"
