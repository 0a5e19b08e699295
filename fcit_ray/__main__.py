"""`python -m fcit_ray` is the command `fcit-ray`."""

from fcit_ray.cli.app import main

main()
