"""Decoders behind one contract: PyAV, decord and OpenCV."""
