# SPDX-License-Identifier: Apache-2.0
"""Reading DynamoDB Streams: frontiers of shards, one splittable DoFn, no lease table.

The way of a page: `read_stream` (the transform) lets `reader` have a slice; `scheduler` says which
shard is due; `shard_requests` asks the service and `page_parser` parses the response on other
threads; `responses` judges it (`page_order`) and claims it of the `tracker`, which moves the
`frontier`, by `lineage` where shards come and go; `block_builder` makes blocks of what is claimed.

Around it: `reader_spec` and `reader_group` are the elements, `reader_cache` keeps schedulers and
threads between slices, `shard_listing` lists shards, `pacing` holds limits and times, `watermark`
and `progress` say how far a reader has got.
"""
