"""``python -m vidcomp`` is the command line."""

from vidcomp.cli import main

main()
