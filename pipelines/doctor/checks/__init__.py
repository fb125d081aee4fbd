# SPDX-License-Identifier: Apache-2.0
"""What `dynabeam doctor` looks at, one idea a module; each gives findings."""
