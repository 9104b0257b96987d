"""`crowddist folds` as a script, for `ray job submit -- python jobs/folds.py`, or where nothing is installed."""

import sys

from crowddist.cli.folds import main

if __name__ == "__main__":
    main(sys.argv[1:], sys.argv[0])
