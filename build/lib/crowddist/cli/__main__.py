"""`python -m crowddist.cli`: the command where no script is installed."""

from crowddist.cli.main import main

if __name__ == "__main__":
    main()
