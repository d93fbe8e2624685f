"""`python -m granulon.cli`, which `accelerate launch -m` needs."""

import sys

from . import main


sys.exit(main())
