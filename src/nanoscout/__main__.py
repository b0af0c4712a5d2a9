"""`python -m nanoscout` is the installed command."""

from nanoscout.cli import main

main()
