"""How an import's lines are read and cut into batches."""

from __future__ import annotations

import io

import pytest

from appliance.cli.import_source import BadLine, Record, parse_line, read_batches


@pytest.mark.parametrize(
    ("line", "value"),
    [
        pytest.param(b'{"key":"a","value":"text"}', b"text", id="string"),
        pytest.param(b'{"key":"a","value":"gr\\u00fc\\ud83d\\ude00"}', "grü😀".encode(), id="escapes"),
        pytest.param(b'{"key":"a","value":""}', b"", id="empty string"),
        pytest.param(b'{"key":"a","value":{"b" : [1, 2]}}', b'{"b":[1,2]}', id="object, compact"),
        pytest.param(b'{"key":"a","value":1.10}', b"1.10", id="number as written"),
        pytest.param(
            b'{"key":"a","value":123456789012345678901234567890}', b"123456789012345678901234567890", id="big"
        ),
        pytest.param(b'{"key":"a","value":null}', b"null", id="null"),
        pytest.param(b'{"key":"a","value":false}', b"false", id="false"),
        pytest.param(b'{"key":"a","value_base64":"/w=="}', b"\xff", id="base64"),
    ],
)
def test_a_value_becomes_these_bytes(line: bytes, value: bytes) -> None:
    assert parse_line(line, 1, "") == Record(1, "a", value)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        pytest.param(b"{", "bad_line", id="torn"),
        pytest.param(b'["a"]', "bad_line", id="no object"),
        pytest.param(b'{"value":"1"}', "bad_line", id="no key"),
        pytest.param(b'{"key":1,"value":"1"}', "bad_line", id="key no string"),
        pytest.param(b'{"key":"a","value":"1","ttl":3}', "bad_line", id="unknown member"),
        pytest.param(b'{"key":"a"}', "bad_value", id="no value"),
        pytest.param(b'{"key":"a","value":"1","value_base64":"MQ=="}', "bad_value", id="two values"),
        pytest.param(b'{"key":"a","value_base64":"*"}', "bad_value", id="no base64"),
        pytest.param(b'{"key":"a","value":"\xff"}', "bad_value", id="no UTF-8 in the value"),
        pytest.param(b'{"key":"\xff","value":"1"}', "bad_line", id="no UTF-8 in the key"),
        pytest.param(b'{"key":"","value":"1"}', "bad_key", id="empty key"),
        pytest.param(b'{"key":"a\\u0000","value":"1"}', "bad_key", id="control character"),
        pytest.param(b'{"key":"' + b"k" * 1025 + b'","value":"1"}', "bad_key", id="long key"),
    ],
)
def test_a_bad_line_is_named_with_its_reason(line: bytes, code: str) -> None:
    found = parse_line(line, 7, "")
    assert isinstance(found, BadLine)
    assert (found.line, found.code) == (7, code)
    assert found.detail


def lines_of(count: int) -> bytes:
    return b"".join(b'{"key":"k%d","value":"v"}\n' % n for n in range(count))


def test_batches_are_cut_by_count_and_name_their_lines() -> None:
    batches = list(read_batches(io.BytesIO(lines_of(7)), prefix="", records_max=3))
    assert [(b.first, b.last, len(b.records)) for b in batches] == [(1, 3, 3), (4, 6, 3), (7, 7, 1)]
    assert batches[-1].offset == len(lines_of(7))


def test_a_key_that_comes_again_begins_a_new_batch() -> None:
    source = b'{"key":"a","value":"1"}\n{"key":"b","value":"1"}\n{"key":"a","value":"2"}\n'
    batches = list(read_batches(io.BytesIO(source), prefix="", records_max=100))
    assert [[r.key for r in b.records] for b in batches] == [["a", "b"], ["a"]]


def test_batches_are_cut_by_bytes() -> None:
    big = b"".join(b'{"key":"k%d","value":"%s"}\n' % (n, b"x" * 3_000_000) for n in range(3))
    assert [len(b.records) for b in read_batches(io.BytesIO(big), prefix="", records_max=100)] == [1, 1, 1]


def test_empty_and_bad_lines_do_not_stop_the_good_ones() -> None:
    source = b'\n{"key":"a","value":"1"}\nnonsense\n\n{"key":"b","value":"2"}'
    (batch,) = read_batches(io.BytesIO(source), prefix="p/", records_max=10)
    assert [(r.line, r.key) for r in batch.records] == [(2, "p/a"), (5, "p/b")]
    assert [bad.line for bad in batch.bad] == [3]
    assert batch.skipped == 2
    assert (batch.first, batch.last) == (1, 5)


def test_an_empty_source_has_no_batch() -> None:
    assert list(read_batches(io.BytesIO(b""), prefix="", records_max=10)) == []
