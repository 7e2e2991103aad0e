"""`python -m alignment_tax.figures`: redraw the figures from the recorded results."""

import sys

from alignment_tax.figures.redraw import main

sys.exit(main())
