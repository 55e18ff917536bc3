"""``python -m beph_store_cli``."""

from beph_store_cli.main import main

main()
