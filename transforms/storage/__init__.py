# SPDX-License-Identifier: Apache-2.0
"""Files wherever they are: local paths and object stores, compare-and-swap, leases."""
