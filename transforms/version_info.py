# SPDX-License-Identifier: Apache-2.0
"""The version of the package, in the one place that everything else reads.

`setup.py` executes this file without importing the package, so it imports nothing.
"""

__version__ = "0.1.0"
