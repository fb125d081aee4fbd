# SPDX-License-Identifier: Apache-2.0
"""Dynabeam: DynamoDB tables, exactly and provably, where people analyse data."""
