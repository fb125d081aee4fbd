# SPDX-License-Identifier: Apache-2.0
"""What every transform takes of Beam and of Python: codecs, timers, polls, keyed memory, the clock."""
