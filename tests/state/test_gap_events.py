# SPDX-License-Identifier: Apache-2.0
"""What became of losses: one event for shards that lost together; repaired only if it is so."""

import pytest

from dynabeam.transforms.model.gap import Gap, GapKind
from dynabeam.transforms.state.gap_events import Repaired, gap_events


def gap(from_us=100, to_us=200, *, kind="trimmed", shard="s", generation=1, arn="arn"):
    detail = f"shard {shard}"
    return Gap("orders", GapKind(kind), arn, shard, "", from_us, to_us, detail, generation)


def states(events):
    return [each.state for each in events]


def test_shards_that_lost_together_are_one_event():
    gaps = [gap(100, 200, shard="a"), gap(150, 220, shard="b"), gap(90, 210, shard="c")]
    (event,) = gap_events(gaps)
    assert (event.shards, event.from_us, event.to_us) == (3, 90, 220)
    assert (event.state, event.detail) == ("lost", "shard a")


@pytest.mark.parametrize(
    "other",
    [
        gap(201, 300),
        gap(kind="chain"),
        gap(arn="other"),
        gap(generation=2),
    ],
    ids=["later", "kind", "stream", "generation"],
)
def test_others_are_events_of_their_own(other):
    assert len(gap_events([gap(), other])) == 2


def test_a_repair_mends_what_was_met_before_it_and_lies_in_its_window():
    earlier, healed, later = gap(50, 60), gap(100, 200), gap(300, 400, generation=2)
    events = gap_events([earlier, healed, later], [Repaired(2, 100)])
    assert states(events) == ["lost", "repaired", "lost"]
    # A whole snapshot brings what was lost at any time before it.
    events = gap_events([earlier, healed, later], [Repaired(2, 100), Repaired(3, 0)])
    assert states(events) == ["repaired"] * 3


def test_a_repair_that_goes_on():
    events = gap_events([gap(), gap(300, 400, generation=2)], [Repaired(2, 0)], Repaired(3, 300))
    assert states(events) == ["repaired", "repairing"]


def test_acknowledged_ones_are_known_until_there_is_a_new_one():
    gaps = [gap(), gap(300, 400)]
    assert states(gap_events(gaps, acknowledged=2)) == ["acknowledged", "acknowledged"]
    assert states(gap_events([*gaps, gap(500, 600)], acknowledged=2))[-1] == "lost"
    # What is repaired is not lost, whoever acknowledged it.
    assert states(gap_events(gaps, [Repaired(2, 0)], acknowledged=2)) == ["repaired", "repaired"]
