# SPDX-License-Identifier: Apache-2.0
"""What the graph is made of: public transforms, usable without the command line."""
