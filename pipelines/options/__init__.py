# SPDX-License-Identifier: Apache-2.0
"""The options of all commands: parsed, checked, and what follows from them."""
