"""What memcached needs as a worker, and what it says that it holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi.base.workers import held_bytes, item_memory_mib, process_memory_mib


@given(st.integers(64, 10**7), st.integers(0, 10**8))
def test_a_process_needs_more_than_its_items_and_these_more_than_values(memory: int, disk: int) -> None:
    items = item_memory_mib(memory, disk)
    assert items >= memory
    # 120 bytes for each 64 KiB of a file.
    assert (items - memory) << 20 >= (disk << 20 >> 16) * 120
    assert process_memory_mib(memory, disk) >= items + 64


def test_what_a_worker_holds() -> None:
    assert held_bytes({"bytes": "5", "limit_maxbytes": "100"}) == 5
    full = {"bytes": "1245717108", "limit_maxbytes": "136314880", "extstore_bytes_used": "986626770"}
    assert held_bytes(full) == 986626770 + 136314880
    assert held_bytes(full | {"bytes": "1000"}) == 1000
    with pytest.raises(KeyError):
        held_bytes({})
