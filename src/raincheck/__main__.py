"""`python -m raincheck`: the command line."""

import sys

from raincheck.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
