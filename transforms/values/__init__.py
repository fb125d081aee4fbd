# SPDX-License-Identifier: Apache-2.0
"""DynamoDB's attribute values turned into something else, exactly.

One idea per module: `numbers` (canonical number text), `python_values` (to and from Python),
`plain_json` (JSON for people and the canonical form for comparing), `ion_text` (exports in Ion),
`keys` (the binary form of a primary key), `lines` (export lines), `columns` (typed Arrow columns).

A number is never a float, a set keeps its type, binary stays bytes and NULL is not absence.
What is not a DynamoDB value raises `transforms.errors.ValueDecodeError`.
"""
