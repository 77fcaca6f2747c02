# SPDX-License-Identifier: Apache-2.0
"""One request from file to answer: the steps, the order they run in, and what is remembered between questions."""
