"""`python -m alignment_tax` is the command `alignment-tax`."""

import sys

from alignment_tax.cli import main

sys.exit(main())
