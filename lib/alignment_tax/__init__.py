"""See, measure and mitigate the alignment tax."""

__version__ = "0.1.0"
