"""Who gets what to do, and what follows from a loss, on a cluster that a test commands."""

from concurrent.futures import Future

import pytest

from nas_proxy.cluster.interface import SlotDiedError, SlotLostError, SlotUnreachableError
from nas_proxy.cluster.limits import Limits
from nas_proxy.cluster.report import SlotReport, compared_versions
from nas_proxy.cluster.slot import Raised
from nas_proxy.core.packing import pack
from nas_proxy.errors import ConfigError, DataError, StudyError
from tests.cluster.helpers import FakeCluster, job, pool_on


def lost_in_words(error):
    return f"failed: {error}"


def test_a_slot_gets_work_once_it_has_answered():
    cluster = FakeCluster(a=1)
    with pool_on(cluster, num_slots=3) as pool:
        futures = [pool.submit(job(n)) for n in range(3)]
        (slot,) = cluster.busy()
        assert [each.work for each in cluster.slots].count([]) == 2
        for n, future in enumerate(futures):
            cluster.until(lambda: slot.work)
            assert slot.work[0][0] == n
            slot.answer(10 * n)
            assert future.result(20) == 10 * n


def test_nodes_that_come_later_take_their_share():
    cluster = FakeCluster(a=1)
    with pool_on(cluster, num_slots=2) as pool:
        assert pool.words == "1 node, 1 slot"
        for n in range(2):
            pool.submit(job(n))
        cluster.busy(1)
        cluster.add("b", 1)
        assert {slot.node for slot in cluster.busy(2)} == {"a", "b"}
        assert pool.words == "2 nodes, 2 slots"


@pytest.mark.parametrize("said", [True, False], ids=["said by the cluster", "seen by its absence"])
def test_what_a_lost_node_did_is_done_elsewhere(said):
    cluster, words = FakeCluster(a=1, b=1), []
    with pool_on(cluster, say=words.append) as pool:
        futures = [pool.submit(job(n, lost=lost_in_words)) for n in range(3)]
        slots = {slot.node: slot for slot in cluster.busy(2)}
        first = slots["a"].work[0][0]
        cluster.lose("a", said=said)
        cluster.until(lambda: any("a (10.0.0.1) was lost" in each for each in words))
        slots["b"].answer("done")
        cluster.until(lambda: slots["b"].work)
        assert slots["b"].work[0][0] == first  # before what was never begun
        slots["b"].answer("again")
        cluster.until(lambda: slots["b"].work)
        slots["b"].answer("last")
        assert sorted(future.result(20) for future in futures) == ["again", "done", "last"]


def test_a_node_is_lost_three_times_over_the_same_work_and_no_more():
    cluster = FakeCluster(a=1)
    with pool_on(cluster, num_slots=1) as pool:
        future = pool.submit(job("x", lost=lost_in_words))
        for name, following in ("ab", "bc", "cd"):
            cluster.busy()
            cluster.add(following, 1)
            cluster.lose(name)
        assert future.result(20).startswith("failed: its node was lost 3 times, the last time c")


def test_a_worker_that_dies_on_a_living_node_has_failed_once():
    cluster = FakeCluster(a=1)
    with pool_on(cluster, num_slots=1) as pool:
        bad, good = (pool.submit(job(name, lost=lost_in_words)) for name in ("bad", "good"))
        (slot,) = cluster.busy()
        slot.die("the process ended with exit code 7")
        cluster.free(slot)
        assert bad.result(20) == (
            "failed: the worker on a (10.0.0.1) died: the process ended with exit code 7"
        )
        (other,) = cluster.busy()
        assert other is not slot
        assert other.work[0][0] == "good"
        other.answer("fine")
        assert good.result(20) == "fine"


def test_a_worker_that_dies_with_its_node_has_not_failed():
    """Ray may report the process before it knows of the node."""
    cluster = FakeCluster(a=1, b=1)
    with pool_on(cluster, num_slots=1) as pool:
        future = pool.submit(job("x", lost=lost_in_words))
        (slot,) = cluster.busy()
        answer = slot.work.pop()[1]
        cluster.lose(slot.node)
        answer.set_exception(SlotDiedError("the process was killed"))
        (other,) = cluster.busy()
        other.answer("fine")
        assert future.result(20) == "fine"


def test_a_slot_that_is_only_hard_to_reach_is_asked_until_it_is_known():
    cluster = FakeCluster(a=1, b=1)
    with pool_on(cluster, num_slots=1) as pool:
        future = pool.submit(job("x", lost=lost_in_words))
        (slot,) = cluster.busy()
        slot.vanish()
        for number in (1, 2):
            cluster.until(lambda number=number: len(cluster.pings) == number)
            assert not future.done()
            if number == 1:
                cluster.pings[0][1].set_exception(SlotUnreachableError("still no connection"))
        cluster.pings[1][1].set_exception(SlotDiedError("killed: low on memory"))
        assert "killed: low on memory" in future.result(20)


def test_an_answer_that_went_astray_is_asked_for_again():
    cluster = FakeCluster(a=2)
    with pool_on(cluster, num_slots=1) as pool:
        future = pool.submit(job("x", lost=lost_in_words))
        (slot,) = cluster.busy()
        slot.vanish()
        cluster.until(lambda: cluster.pings)
        cluster.pings[0][1].set_result(True)  # it lives
        (other,) = cluster.busy()
        assert slot.killed
        assert other is not slot
        other.answer("fine")
        assert future.result(20) == "fine"


def test_what_a_slot_answers_after_it_was_given_up_is_for_nobody():
    cluster = FakeCluster(a=1, b=1)
    settings = {"evaluation_timeout": 0.05}
    with pool_on(cluster, num_slots=1, settings=settings) as pool:
        future = pool.submit(job("hangs", lost=lost_in_words, kind="k"))
        (slot,) = cluster.busy()
        late = slot.work[0][1]
        assert future.result(20) == "failed: no answer from a (10.0.0.1) within 0 s"
        assert slot.killed
        late.set_result(pack("too late"))
        second = pool.submit(job("next"))
        cluster.until(lambda: any(each.work for each in cluster.slots if each is not slot))
        (other,) = [each for each in cluster.slots if each.work and each is not slot]
        other.answer("fine")
        assert second.result(20) == "fine"


def test_without_words_for_a_loss_it_is_raised():
    cluster = FakeCluster(a=1)
    with pool_on(cluster, num_slots=1) as pool:
        future = pool.submit(job("x"))
        (slot,) = cluster.busy()
        slot.die("out of luck")
        with pytest.raises(SlotLostError, match="out of luck"):
            future.result(20)


def test_what_is_raised_on_a_node_is_raised_here():
    cluster = FakeCluster(a=1)
    with pool_on(cluster, num_slots=1) as pool:
        future = pool.submit(job("x"))
        cluster.busy()[0].answer(Raised(DataError("no images there")))
        with pytest.raises(DataError, match="no images there"):
            future.result(20)


def test_a_resource_that_no_node_has_is_named():
    cluster = FakeCluster(a=1, b=2)
    pool = pool_on(cluster, settings={"num_cpus": 4}, patience=0.05)
    cluster.call = lambda *_, **__: Future()  # which never comes
    expected = "num_cpus asks for 4 .* no node has that much: the most is 2, of b"
    with pytest.raises(ConfigError, match=expected), pool:
        pass


OTHER = dict(compared_versions(), torch="1.0")


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (SlotReport("a", OTHER), r"node a .*other versions.*torch 1.0 \(here "),
        (
            SlotReport("a", compared_versions(), source_hash="f00"),
            "other images .*f00 instead of b",
        ),
        (SlotReport("a", compared_versions(), trouble="no space left"), "node a .*no space left"),
    ],
    ids=["versions", "images", "trouble"],
)
def test_a_node_that_does_not_fit_is_named(report, expected):
    cluster = FakeCluster(a=1)
    cluster.reports["a"] = report
    pool = pool_on(cluster, source_hash="b00")
    with pytest.raises(StudyError, match=expected), pool:
        pass
    assert all(slot.killed for slot in cluster.slots)


def test_the_block_leaves_no_slot_behind():
    cluster = FakeCluster(a=1)

    def interrupted():
        with pool_on(cluster, num_slots=3) as pool:
            pool.submit(job("x"))
            cluster.busy()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(cluster.slots) == 3
    assert all(slot.killed for slot in cluster.slots)


def test_what_takes_ten_times_the_median_is_too_long_but_ten_minutes_are_not():
    limits = Limits("auto")
    assert limits.of("k") is None
    for seconds in (1, 100, 300):
        limits.learn("k", seconds)
    assert limits.of("k") == 1000
    limits.learn("short", 2)
    assert limits.of("short") == 600
    assert limits.of(None) is None
    assert Limits(5.0).of("k") == 5
    assert Limits(5.0).of(None) is None
