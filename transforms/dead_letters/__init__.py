# SPDX-License-Identifier: Apache-2.0
"""The dead letters of a state directory: kept, counted, replayed."""
