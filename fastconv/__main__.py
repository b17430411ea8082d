"""``python -m fastconv``: the command line without its script."""

from fastconv.cli import main

main()
