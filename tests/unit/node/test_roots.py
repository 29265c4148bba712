"""Which daemon a new user of a dataset gets, by what a running one says of its root."""

import asyncio

import pytest

from csi._proto import efc_pb2
from csi.base.errors import Code, DriverError
from csi.node import roots
from csi.node.keeper import Keeper
from csi.node.roots import Roots

OLD, NEW = b"old", b"new"


class SayingKeeper(Keeper):
    """Says of each daemon what it serves, and of the path what is there; or fails."""

    def __init__(self) -> None:
        super().__init__("/none")
        self.served = {"k": OLD}
        self.found: bytes | None = OLD
        self.failure: DriverError | None = None
        self.asked: list[str] = []

    async def find_root(self, *, target: str) -> efc_pb2.FoundRoot:
        self.asked.append(target)
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        if self.found is None:
            error = efc_pb2.Error(code=efc_pb2.Error.NOT_FOUND, message="there is no such directory")
            return efc_pb2.FoundRoot(served=self.served[target], error=error)
        return efc_pb2.FoundRoot(served=self.served[target], found=self.found)


@pytest.fixture
def keeper() -> SayingKeeper:
    return SayingKeeper()


def roots_of(keeper: SayingKeeper) -> Roots:
    return Roots(keeper=keeper, mount_of=lambda key: key)


async def test_nobody_is_asked_of_what_does_not_run(keeper: SayingKeeper) -> None:
    assert await roots_of(keeper).key_now("k", running=[]) == "k"
    assert keeper.asked == []


async def test_many_at_once_ask_once(keeper: SayingKeeper) -> None:
    asked = roots_of(keeper)
    assert set(await asyncio.gather(*[asked.key_now("k", running=["k"]) for _ in range(50)])) == {"k"}
    assert await asked.key_now("k", running=["k"]) == "k"
    assert keeper.asked == ["k"]


async def test_a_dataset_that_moved(keeper: SayingKeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots, "_FRESH_SECONDS", 0.0)
    asked = roots_of(keeper)
    keeper.found = NEW
    key = await asked.key_now("k", running=["k"])
    assert key.startswith("k-")
    assert "replaced" in asked.moved("k")
    assert asked.moved(key) == ""
    keeper.served[key] = NEW
    assert await asked.key_now("k", running=["k", key]) == key
    assert await asked.key_now("k", running=[key]) == key
    keeper.found = OLD
    assert await asked.key_now("k", running=["k", key]) == "k", "moved back"
    assert asked.moved("k") == ""
    assert await asked.key_now("k", running=[key]) == "k", "nobody has that name now"
    assert "replaced" in asked.moved(key)
    asked.forget(key)
    assert asked.moved(key) == ""


async def test_who_serves_what_is_there_now_is_shared(keeper: SayingKeeper) -> None:
    """Whatever it is called, and whoever else runs: two daemons of one directory would not share its locks."""
    asked = roots_of(keeper)
    keeper.served = {"k-1": b"older", "k-2": NEW}
    keeper.found = NEW
    assert await asked.key_now("k", running=["k-2", "k-1"]) == "k-2"
    keeper.served = {"k-3": b"oldest"}
    assert await asked.key_now("k", running=["k-3"]) == "k"


async def test_a_daemon_that_says_nothing_keeps_its_users(keeper: SayingKeeper) -> None:
    asked = roots_of(keeper)
    keeper.failure = DriverError(Code.DEADLINE_EXCEEDED, "it hangs")
    assert await asked.key_now("k", running=["k-1"]) == "k-1"
    keeper.failure = DriverError(Code.NOT_FOUND, "nothing is mounted")
    assert await asked.key_now("k", running=["k-2"]) == "k"


async def test_a_name_is_never_given_to_what_serves_another_directory(keeper: SayingKeeper) -> None:
    """A mount that was made anew, after all that held its session had died, serves what was there then."""
    asked = roots_of(keeper)
    keeper.found = NEW
    key = await asked.key_now("k", running=["k"])
    asked.forget("k")
    keeper.served[key] = b"newer"
    other = await asked.key_now("k", running=["k", key])
    assert other not in ("k", key)
    assert other.startswith("k-")


async def test_a_dataset_that_is_gone(keeper: SayingKeeper) -> None:
    asked = roots_of(keeper)
    keeper.found = None
    with pytest.raises(DriverError) as caught:
        await asked.key_now("k", running=["k"])
    assert caught.value.code is Code.NOT_FOUND
    assert "gone" in asked.moved("k")


@pytest.mark.parametrize(
    ("code", "asks"),
    [(Code.INVALID_ARGUMENT, 1), (Code.DEADLINE_EXCEEDED, 1), (Code.UNAVAILABLE, 3), (Code.NOT_FOUND, 3)],
)
async def test_who_says_nothing_is_taken_for_unmoved(keeper: SayingKeeper, code: Code, asks: int) -> None:
    """A keeper or daemon of an older release, which must not cost each publish a time limit; one that restarts."""
    asked = roots_of(keeper)
    keeper.failure = DriverError(code, "it does not know the request")
    for _ in range(3):
        assert await asked.key_now("k", running=["k"]) == "k"
    assert len(keeper.asked) == asks
