# SPDX-License-Identifier: Apache-2.0
"""What Dataflow's launcher runs in the image: `FLEX_TEMPLATE_PYTHON_PY_FILE` names it."""

import sys

from dynabeam.pipelines.templates.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
