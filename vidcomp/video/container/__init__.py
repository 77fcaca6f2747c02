# SPDX-License-Identifier: Apache-2.0
"""Facts that a file gives of itself: headers, packets, indexes and the plan made from them. Nothing is decoded here."""
