"""`crowddist count` as a script, which writes the points of heads only where --points asks for them."""

import sys

from crowddist.cli.count import main

if __name__ == "__main__":
    main(sys.argv[1:], sys.argv[0], points=())
