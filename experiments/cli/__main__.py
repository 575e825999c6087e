"""`python -m experiments.cli`: the command `lathe`, without pinned names. `python -m lathe` pins them."""

import sys

from experiments.cli.main import main

sys.exit(main())
