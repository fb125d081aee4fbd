# SPDX-License-Identifier: Apache-2.0
"""Many clients at once: every write is one record, in the order in which it took effect."""

import threading
from concurrent.futures import ThreadPoolExecutor

from dynabeam.transforms.testing.faults import Faults
from dynabeam.transforms.testing.simulator import Simulator
from tests.testing.conftest import ONE_TRY
from tests.testing.reading import arn_of, read_stream

WRITERS = 4
WRITES = 30


def test_counters_raised_by_many_clients_while_shards_roll():
    with Simulator(seed=4, initial_shards=2, faults=Faults(roll_after=9, roll_children=2)) as sim:
        sim.create_table("table", "id:S")
        client = sim.client("dynamodb", config=ONE_TRY)
        together = threading.Barrier(WRITERS)

        def write(writer):
            together.wait()
            for number in range(WRITES):
                client.update_item(
                    TableName="table",
                    Key={"id": {"S": str(number % 3)}},
                    UpdateExpression="ADD n :one",
                    ExpressionAttributeValues={":one": {"N": "1"}},
                )
                sim.put_many("table", [{"id": {"S": f"{writer}-{number}"}}])

        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(write, range(WRITERS)))

        streams = sim.client("dynamodbstreams", config=ONE_TRY)
        read = read_stream(streams, arn_of(streams, "table"))
        state = {}
        for record in (record for shard in read.values() for record in shard):
            change = record["dynamodb"]
            key = change["Keys"]["id"]["S"]
            assert change.get("OldImage") == state.get(key)
            state[key] = change["NewImage"]
        assert len(state) == 3 + WRITERS * WRITES
        assert state == {item["id"]["S"]: item for item in sim.items("table")}
        assert {state[key]["n"]["N"] for key in "012"} == {str(WRITERS * WRITES // 3)}
        assert client.scan(TableName="table", Select="COUNT")["Count"] == len(state)


def test_closing_cuts_idle_connections_and_frees_the_port():
    with Simulator() as sim:
        sim.client("dynamodb", config=ONE_TRY).list_tables()
        port = int(sim.endpoint_url.rsplit(":", 1)[1])
    with Simulator(port=port) as again:
        assert again.endpoint_url.endswith(f":{port}")
