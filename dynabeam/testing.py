# SPDX-License-Identifier: Apache-2.0
"""A simulated AWS for tests of your pipelines: tables, streams, exports and S3, over HTTP.

```python
from dynabeam import AwsAccess
from dynabeam.testing import Simulator

with Simulator(seed=1) as sim:
    sim.create_table("orders", "id:S")
    sim.put_many("orders", [{"id": {"S": "a"}, "total": {"N": "9.50"}}])
    access = AwsAccess(region=sim.region, endpoint_url=sim.endpoint_url)
```

It needs the extra `simulator`, and `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` with any values.
As a process of its own: `python -m dynabeam.testing --port 0 --seed 1` prints its endpoint, and
`RemoteSimulator(endpoint_url)` has the methods of `Simulator`.
"""

import sys

from dynabeam.transforms.testing.clock import SimClock
from dynabeam.transforms.testing.faults import Faults
from dynabeam.transforms.testing.remote import RemoteSimulator
from dynabeam.transforms.testing.simulator import Simulator

__all__ = ["Faults", "RemoteSimulator", "SimClock", "Simulator"]


if __name__ == "__main__":
    from dynabeam.transforms.testing.__main__ import main

    sys.exit(main())
