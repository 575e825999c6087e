"""The store where ranks find each other, as torch's C++ uses it."""

from __future__ import annotations

import contextlib
import gc
import re
import socket
import stat
import threading
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch._C._distributed_c10d import PrefixStore, ProcessGroupGloo
from torch.distributed import DistNetworkError, DistStoreError

from modules.parallel.base import Rank
from modules.parallel.handshake import listen, make_secret
from modules.parallel.shared_store import MAX_MESSAGE_BYTES, SharedStore, join_store, open_store
from tests.support.waiting import PATIENCE_S

ROOT = Path(__file__).parents[3]


@pytest.fixture
def rank(tmp_path: Path) -> Rank:
    return Rank(0, 0, 2, f"file://{tmp_path}/ranks")


def test_store_has_the_operations_of_torch(rank: Rank, tmp_path: Path) -> None:
    store = open_store(rank)
    other = join_store(rank)
    store.set("a", b"\x00\xff")
    assert other.get("a") == b"\x00\xff"
    assert (store.add("n", 2), other.add("n", 3)) == (2, 5)
    assert store.get("n") == b"5"
    assert (store.check(["a", "n"]), store.check(["a", "b"])) == (True, False)
    assert other.compare_set("a", "wrong", "x") == b"\x00\xff"
    assert other.compare_set("c", "", "x") == store.get("c") == b"x"
    assert (store.delete_key("c"), store.delete_key("c"), store.num_keys()) == (True, False, 2)
    with pytest.raises(DistStoreError, match="no rank wrote b in 0 s"):
        store.wait(["b"], timedelta(0))
    assert store.queue_pop("q") is None
    other.queue_push("q", "1")
    assert store.queue_pop("q") == "1"
    threading.Timer(0.05, store.set, ("late", "1")).start()
    assert other.get("late") == b"1"
    clone = PrefixStore("p", store).clone()  # type: ignore[attr-defined]
    gc.collect()
    clone.set("k", "v")
    assert other.get("p/k") == b"v"
    assert stat.S_IMODE((tmp_path / "ranks.address").stat().st_mode) == 0o600


def test_gloo_connects_two_ranks_over_it(rank: Rank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    secret = make_secret()
    with listen("127.0.0.1") as listener:
        tcp = Rank(0, 0, 2, f"tcp://127.0.0.1:{listener.getsockname()[1]}", listener.detach(), secret)
    assert secret not in repr(tcp)
    stores = [open_store(tcp), join_store(tcp)]
    values = [torch.tensor([1.0]), torch.tensor([2.0])]

    def reduce(number: int) -> None:
        group = ProcessGroupGloo(PrefixStore("x", stores[number]), number, 2, timedelta(seconds=PATIENCE_S))
        group.allreduce([values[number]]).wait(timedelta(seconds=PATIENCE_S))  # type: ignore[attr-defined]

    threads = [threading.Thread(target=reduce, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert values == [torch.tensor([3.0])] * 2


def test_a_lost_store_is_a_lost_rank(rank: Rank) -> None:
    open_store(rank)
    store = join_store(rank)
    store._connection.shutdown(socket.SHUT_RDWR)
    with pytest.raises(DistNetworkError, match="the process that holds the rendezvous has ended"):
        store.get("a")


def test_message_over_the_limit_ends_only_its_connection(rank: Rank) -> None:
    first, other = open_store(rank), join_store(rank)
    other._connection.sendall((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(DistNetworkError):
        other.set("a", "1")
    first.set("a", "2")
    assert join_store(rank).get("a") == b"2"


def test_stranger_gets_nothing(rank: Rank) -> None:
    store = open_store(rank)
    host, port = store._address
    assert host == "127.0.0.1"
    with pytest.raises(ConnectionError):
        SharedStore((host, port), make_secret())
    with closing(socket.create_connection((host, port))) as stranger:
        stranger.sendall(b"\0\0\0\x11" + b'["set","a","evil"]' * 9)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(64, socket.MSG_WAITALL)[32:] == b""  # only the challenge
    assert store.num_keys() == 0


def test_no_code_of_ours_unpickles_messages_or_listens_for_everyone() -> None:
    collectives = "gather|all_gather|broadcast|scatter|send|recv"
    forbidden = rf"\b(?:{collectives})_object\w*\(|_object_list\(|\bTCPStore\(|import pickle|torch\.load\("
    sources = [path for name in ("modules", "experiments", "launchers") for path in (ROOT / name).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix() for path in sources if re.search(forbidden, path.read_text())}
    # The loader's worker processes are forked, and send batches through pipes that only they inherit.
    assert found == {"experiments/train/loading/workers.py"}
