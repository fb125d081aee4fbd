# SPDX-License-Identifier: Apache-2.0
"""Tests of what the documents for people say."""
