"""What a message that cannot be read is answered with: its own id and its own fault, and an answer with nothing."""

from __future__ import annotations

import pytest
from mcp_types import jsonrpc_message_adapter
from pydantic import ValidationError

from raincheck.mcp.wire.unreadable import refusal_of


def refused(line: bytes) -> tuple[object, bool] | None:
    """The id that it is answered under, and whether it is told that it is a batch; None where there is no answer."""
    with pytest.raises(ValidationError) as unreadable:
        jsonrpc_message_adapter.validate_json(line)
    refusal = refusal_of(unreadable.value)
    return refusal and (refusal.id, "batches" in refusal.error.message)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"tools/list","params":[]}', (7, False)),
        (b'{"jsonrpc":"2.0","id":7,"method":[],"params":{}}', (7, False)),
        (b'{"jsonrpc":"2.0","id":[],"method":[]}', (None, False)),
        (b'[{"jsonrpc":"2.0","id":7,"method":"ping"}]', (None, True)),
        (b"[]", (None, True)),
        (b"5", (None, False)),
        (b'{"id":7,"result":[]}', None),
        (b'{"jsonrpc":"2.0","id":7,"result":[]}', None),
        (b'{"jsonrpc":"2.0","id":7,"error":[]}', None),
    ],
)
def test_only_a_whole_list_is_a_batch(line: bytes, told: tuple[object, bool] | None) -> None:
    assert refused(line) == told
