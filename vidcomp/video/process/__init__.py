# SPDX-License-Identifier: Apache-2.0
"""The child process in which videos are decoded, and the memory that it shares with this one."""
