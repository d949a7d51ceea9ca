"""Work shared among threads that run networks on one thread each."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from paddle2torch.threads import Crew, crew_for, share


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_networks_have_one_thread_in_a_crew_and_as_many_as_before_elsewhere() -> None:
    found = []
    with Crew(2) as crew:
        assert {crew.submit(torch.get_num_threads).result() for _ in range(8)} == {1}
        other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        other.start()
        other.join()
    assert (torch.get_num_threads(), found) == (3, [3])


def test_results_come_in_order_and_every_thread_works() -> None:
    together = threading.Barrier(2, timeout=30)

    def work(number: int) -> int:
        if number < 2:
            together.wait()  # ends only where two run at once
        return number * number

    with Crew(2) as crew:
        assert crew.share(work, range(9)) == [number * number for number in range(9)]


def test_one_of_the_crew_does_itself_what_nobody_has_begun() -> None:
    """Were it to wait for a free thread, a crew of one would wait for ever."""
    with Crew(1) as crew:
        where = crew.submit(crew.share, lambda _: threading.get_ident(), range(3)).result(timeout=30)
        assert set(where) == {crew.submit(threading.get_ident).result()}


def test_an_error_ends_the_rest() -> None:
    done = []

    def work(number: int) -> None:
        if number == 1:
            raise ValueError("out of ink")
        done.append(number)

    with Crew(1) as crew, pytest.raises(ValueError, match="out of ink"):
        crew.submit(crew.share, work, range(5)).result()
    assert done == [0]


def test_a_crew_is_made_where_it_helps() -> None:
    on_gpu = nn.Linear(1, 1, device="meta")
    with crew_for([nn.Linear(1, 1), nn.ReLU()]) as crew, crew_for([nn.Linear(1, 1), on_gpu]) as none:
        assert crew is not None
        assert none is None
        assert share(none, abs, [-1, 2]) == share(crew, abs, [-1, 2]) == [1, 2]
    torch.set_num_threads(1)
    with crew_for([nn.ReLU()]) as none:
        assert none is None
    with crew_for([nn.ReLU()], size=2) as crew:
        assert crew is not None
