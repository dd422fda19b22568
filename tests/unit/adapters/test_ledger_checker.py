"""The check of a received ledger file in a process of its own: what it answers, and that it never stays behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from appliance.adapters.ledger_checker import verify_apart
from appliance.adapters.ledger_store import SqliteLedgerStore
from appliance.node.ports import DamagedFile, StorageError, StorageFailed
from tests.contract.script import CLUSTER_ID, Replica, model_at
from tests.unit.adapters.checking import checkers
from tests.unit.adapters.peers.peer_harness import offered, until, world

pytestmark = pytest.mark.anyio

INDEX = 60
WAIT_S = 20.0
LOOPS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
]
CHECK_AND_WAIT = """
import asyncio, sys
from pathlib import Path
from appliance.adapters.ledger_checker import verify_apart
asyncio.run(verify_apart(Path(sys.argv[1]), sys.argv[2]))
"""


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    store = SqliteLedgerStore(tmp_path / "ledger.db", 10_000, CLUSTER_ID)
    store.load()
    Replica(store).apply_to(INDEX)
    store.flush(INDEX)
    store.copy_to(tmp_path / "copy.db")
    store.close()
    return tmp_path / "copy.db"


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A file whose check does not end: nobody writes to this pipe."""
    path = tmp_path / "pipe.db"
    os.mkfifo(path)
    return path


async def test_a_good_file_is_answered_as_by_the_check_itself(copy: Path) -> None:
    os.chmod(copy, 0o400)
    assert await verify_apart(copy, CLUSTER_ID) == model_at(INDEX).load()
    assert checkers(copy) == []


async def test_damage_is_named(copy: Path) -> None:
    db = apsw.Connection(str(copy))
    db.execute("DELETE FROM leaves WHERE leaf_index = 33")
    db.close()
    with pytest.raises(DamagedFile, match="leaf 33 is missing") as caught:
        await verify_apart(copy, CLUSTER_ID)
    assert caught.value.path == str(copy)


async def test_another_cluster_and_no_file(copy: Path) -> None:
    with pytest.raises(DamagedFile, match="another cluster"):
        await verify_apart(copy, "f" * 32)
    with pytest.raises(StorageError, match=r"none\.db"):
        await verify_apart(copy.with_name("none.db"), CLUSTER_ID)


async def test_a_process_that_is_killed_has_checked_nothing(endless: Path) -> None:
    checking = asyncio.ensure_future(verify_apart(endless, CLUSTER_ID))
    await until(lambda: checkers(endless))
    os.kill(checkers(endless)[0], signal.SIGKILL)
    with pytest.raises(StorageFailed, match=r"pipe\.db was not checked to the end: the process ended with -9"):
        await asyncio.wait_for(checking, WAIT_S)


async def test_a_process_that_cannot_be_started(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(copy.with_name("no-python")))
    with pytest.raises(StorageFailed, match=r"copy\.db cannot be checked, because no process can be started"):
        await verify_apart(copy, CLUSTER_ID)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("#!/bin/sh\necho no such module >&2\nexit 1\n", "ended with 1 and said no such module"),
        ("#!/bin/sh\nexit 0\n", "no answer that can be read"),
        ("#!/bin/sh\nyes | head -c 3000000\nyes error | head -c 3000000 >&2\n", "no answer that can be read"),
    ],
    ids=["fails", "says nothing", "says too much"],
)
async def test_a_process_without_an_answer(
    copy: Path, program: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = copy.with_name("python")
    python.write_text(program)
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(StorageFailed, match=message):
        await asyncio.wait_for(verify_apart(copy, CLUSTER_ID), WAIT_S)


async def test_who_is_cancelled_leaves_no_process(endless: Path) -> None:
    for turns in (1, 2, 5, 0):  # also while it is being started
        checking = asyncio.ensure_future(verify_apart(endless, CLUSTER_ID))
        if turns:
            for _ in range(turns):
                await asyncio.sleep(0)
        else:
            await until(lambda: checkers(endless))
        checking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(checking, WAIT_S)
        assert checkers(endless) == []


async def test_a_node_that_stops_while_it_checks_leaves_no_process(tmp_path: Path, endless: Path) -> None:
    async with world(tmp_path) as nodes:
        receiver, sender = await nodes.pair()

        async def check() -> None:
            await verify_apart(endless, CLUSTER_ID)

        receiver.snapshot = check
        path = nodes.directory / "snapshot.db"
        path.write_bytes(b"x")
        sending = asyncio.ensure_future(sender.network.send_snapshot(1, offered(path), lambda _offset: None))
        await until(lambda: checkers(endless))
        await asyncio.wait_for(receiver.network.close(), WAIT_S)
        assert checkers(endless) == []
        with pytest.raises(OSError, match="lost"):
            await asyncio.wait_for(sending, WAIT_S)


async def test_a_node_that_is_killed_leaves_no_process(endless: Path) -> None:
    node = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHECK_AND_WAIT, str(endless), CLUSTER_ID, stderr=subprocess.DEVNULL
    )
    await until(lambda: checkers(endless))
    node.kill()
    await node.wait()
    await until(lambda: not checkers(endless))
