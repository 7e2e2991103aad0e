"""Programs that measure on this machine; no part of the library: `alignment-tax bench`."""
