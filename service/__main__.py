"""`python -m service` is `coinm-gateway`."""

from service.cli import main

main(prog_name="coinm-gateway")
