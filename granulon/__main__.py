"""`python -m granulon`: the command `granulon`."""

import sys

from granulon.cli import main


sys.exit(main())
