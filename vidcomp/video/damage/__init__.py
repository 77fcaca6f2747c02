# SPDX-License-Identifier: Apache-2.0
"""A second look for damage that decoders do not report, behind one function."""
