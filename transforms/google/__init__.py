# SPDX-License-Identifier: Apache-2.0
"""What is asked of Google on its own machines: identity and secrets."""
