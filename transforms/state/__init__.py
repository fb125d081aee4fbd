# SPDX-License-Identifier: Apache-2.0
"""What is kept between runs of a replication, and what follows from it."""
