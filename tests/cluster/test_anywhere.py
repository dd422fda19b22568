"""Any node takes any request."""

import pytest

from tests.cluster.harness import Cluster


def test_a_write_at_a_follower_answers_as_at_the_leader(shared: Cluster) -> None:
    leader, (follower, _) = shared.roles()
    answers = [shared.put(node, "same", b"value") for node in (leader, follower)]
    assert [a.status_code for a in answers] == [200, 200]
    first, second = (a.json() for a in answers)
    assert first.keys() == second.keys()
    assert (first["version"], second["version"]) == (1, 2)
    assert (first["status"], second["status"]) == ("ok", "ok")
    assert second["leaf_index"] == first["leaf_index"] + 1
    assert second["index"] > first["index"]
    assert second["timestamp"] >= first["timestamp"]


@pytest.mark.parametrize("writer", [1, 2, 3])
def test_what_was_acknowledged_is_read_at_every_node_at_once(shared: Cluster, writer: int) -> None:
    for round_number in range(20):
        key = f"read-{writer}-{round_number}"
        assert shared.put(writer, key, b"%d" % round_number).status_code == 200
        for node in (1, 2, 3):
            answer = shared.get(node, f"/kv/{key}")
            assert (answer.status_code, answer.content) == (200, b"%d" % round_number)


REFUSALS = [
    pytest.param("PUT", "/kv/c", {"If-Match": '"7"'}, b"x", 412, "condition_failed", id="condition"),
    pytest.param("DELETE", "/kv/never-written", {}, b"", 404, "not_found", id="delete of an absent key"),
    pytest.param("POST", "/batch", {}, b'{"operations":[]}', 400, "bad_request", id="empty batch"),
    pytest.param("PUT", "/kv/%ff", {}, b"x", 400, "bad_key", id="key that is not UTF-8"),
    pytest.param("PUT", "/kv/big", {}, b"x" * (1024 * 1024 + 1), 413, "too_large", id="value too large"),
    pytest.param("PUT", "/kv/c", {"X-API-Key": "wrong"}, b"x", 401, "unauthenticated", id="wrong key"),
]


@pytest.mark.parametrize(("method", "path", "headers", "body", "status", "code"), REFUSALS)
def test_refusals_are_the_same_everywhere(
    shared: Cluster, method: str, path: str, headers: dict[str, str], body: bytes, status: int, code: str
) -> None:
    seen = []
    leader, (follower, _) = shared.roles()
    for node in (leader, follower):
        answer = shared.client.request(method, shared.url(node, path), headers=headers, content=body)
        problem = answer.json()
        seen.append((answer.status_code, problem["code"], problem["retryable"]))
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["detail"]
    assert seen == [(status, code, False)] * 2


def test_roles_are_held(shared: Cluster) -> None:
    read, write = (shared.credentials[f"APPLIANCE_API_KEY_{r}"] for r in ("READ", "WRITE"))
    node = shared.followers()[0]
    assert shared.put(node, "role", b"x", headers={"X-API-Key": read}).status_code == 403
    assert shared.put(node, "role", b"x", headers={"X-API-Key": write}).status_code == 200
    assert shared.get(node, "/kv/role", headers={"Authorization": f"Bearer {read}"}).status_code == 200


def test_an_idempotency_key_is_one_write_wherever_it_is_sent(shared: Cluster) -> None:
    headers = {"Idempotency-Key": "order-4711"}
    answers = [shared.put(node, "once", b"v", headers=headers) for node in (1, 2, 3, 1)]
    assert {a.status_code for a in answers} == {200}
    assert {a.json()["version"] for a in answers} == {1}
    assert [a.headers.get("Idempotency-Replayed") for a in answers] == [None, "true", "true", "true"]
    other = shared.put(2, "once", b"another value", headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_all_nodes_hold_the_same_tree(shared: Cluster) -> None:
    shared.put(1, "tree", b"x")
    merkle = shared.agree()
    assert int(merkle["tree_size"]) > 0
    assert len(merkle["root_hash"]) == 64


def test_batches_are_all_or_nothing(shared: Cluster) -> None:
    node = shared.followers()[0]
    good = {"operations": [{"op": "put", "key": f"b{n}", "value": str(n)} for n in range(5)]}
    answer = shared.client.post(shared.url(node, "/batch"), json=good)
    assert answer.status_code == 200
    assert [r["version"] for r in answer.json()["results"]] == [1] * 5
    bad = {
        "operations": [
            {"op": "put", "key": "b-new", "value": "x"},
            {"op": "put", "key": "b0", "value": "y", "if_version": 9},
        ]
    }
    refused = shared.client.post(shared.url(node, "/batch"), json=bad)
    assert refused.status_code == 412
    assert shared.get(1, "/kv/b-new").status_code == 404
    assert shared.get(1, "/kv/b0").content == b"0"


def test_history_and_the_state_at_a_leaf(shared: Cluster) -> None:
    leaves = [shared.put(1, "past", value).json()["leaf_index"] for value in (b"one", b"two")]
    assert shared.client.delete(shared.url(2, "/kv/past")).status_code == 200
    versions = shared.get(3, "/history/past").json()["versions"]
    assert [(v["version"], v["op"]) for v in versions] == [(3, "delete"), (2, "put"), (1, "put")]
    assert [v["leaf_index"] for v in versions[1:]] == leaves[::-1]
    assert shared.get(2, f"/kv/past?at_leaf={leaves[0]}").content == b"one"
    assert shared.get(2, "/kv/past").status_code == 404
    assert shared.put(1, "past", b"again").json()["version"] == 4


def test_no_file_of_a_node_is_open_to_other_users(shared: Cluster) -> None:
    assert shared.put(1, "private", b"x").status_code == 200
    home = shared.files.directory / "node1"
    files = [path for path in home.rglob("*") if path.is_file()]
    assert {"ledger.db", "raft.db", "identity.json"} <= {path.name for path in files}
    assert [path.name for path in files if path.stat().st_mode & 0o007] == []
