"""`python -m retmask.cli`."""

from retmask.cli.main import main

main()
