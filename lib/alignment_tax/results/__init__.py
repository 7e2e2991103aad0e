"""What is recorded: the table of points, its selectors, the values that notebooks leave."""

from alignment_tax.results.recorded import Recorded, recorded, recorded_items
