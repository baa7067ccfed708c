"""`python -m service` is `coinm-gateway`."""

from service.entry import main

main()
