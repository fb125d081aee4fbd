# SPDX-License-Identifier: Apache-2.0
"""`dynabeam launch`: jobs of Dataflow and Flink started, watched, changed and ended."""
