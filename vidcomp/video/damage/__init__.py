"""A second look for damage that decoders do not report, behind one function."""
