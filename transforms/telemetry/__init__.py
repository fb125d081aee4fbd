# SPDX-License-Identifier: Apache-2.0
"""What a run tells of itself while it goes: figures, their endpoint, its log."""
