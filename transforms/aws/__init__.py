# SPDX-License-Identifier: Apache-2.0
"""One client module per AWS service, so that a reader of the graph never meets a retry loop."""
