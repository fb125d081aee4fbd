# SPDX-License-Identifier: Apache-2.0
"""Arrow data as bytes: an IPC stream of one batch, LZ4-compressed, made by the calling thread.

Left to itself Arrow hands each of a batch's buffers to a pool of threads to be compressed, and that
costs a third of a millisecond however small it is: fifteen times the work, for a block of one row
as for one of three thousand. Here many threads encode already.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

__all__ = ["encode_stream", "open_stream"]

_WRITE = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_READ = pa.ipc.IpcReadOptions(use_threads=False)


def encode_stream(rows: pa.RecordBatch | pa.Table, schema: pa.Schema) -> bytes:
    """Rows as an IPC stream.

    Args:
        rows: A batch, or a table.
        schema: Theirs, with whatever metadata is to go with them.
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=_WRITE) as writer:
        writer.write(rows)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream


def open_stream(stream: bytes) -> Any:
    """A reader of an IPC stream, compressed or not."""
    return pa.ipc.open_stream(stream, options=_READ)
