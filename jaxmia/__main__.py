"""`python -m jaxmia` is the command line."""

from jaxmia.cli.commands import main

main()
