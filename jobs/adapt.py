"""`crowddist adapt` as a script, for `ray job submit -- python jobs/adapt.py`, or where nothing is installed."""

import sys

from crowddist.cli.adapt import main

if __name__ == "__main__":
    main(sys.argv[1:], sys.argv[0])
