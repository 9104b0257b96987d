"""`crowddist convert` as a script, for `ray job submit -- python jobs/convert.py`, or where nothing is installed."""

import sys

from crowddist.cli.convert import main

if __name__ == "__main__":
    main(sys.argv[1:], "convert.py")
