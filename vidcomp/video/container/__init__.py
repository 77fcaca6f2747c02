# SPDX-License-Identifier: Apache-2.0
"""What a file says of itself: headers, packets, indexes and the plan made from them. Nothing is decoded here."""
