# SPDX-License-Identifier: Apache-2.0
"""What `dynabeam doctor` checks, one idea a module; each gives findings."""
