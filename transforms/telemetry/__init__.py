# SPDX-License-Identifier: Apache-2.0
"""How a run reports on itself: metrics, their endpoint, its log."""
