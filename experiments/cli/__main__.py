"""`python -m experiments.cli`: the same as the command `lathe`."""

import sys

from experiments.cli.main import main

sys.exit(main())
