"""The command `lathe`, and `python -m lathe`."""

import sys

from experiments.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
