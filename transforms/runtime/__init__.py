# SPDX-License-Identifier: Apache-2.0
"""What transforms take of Beam and Python: codecs, timers, polls, keyed memory, the clock."""
