"""`python -m jaxmia` is the command line."""

from jaxmia.cli import main

main()
