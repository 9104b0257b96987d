"""The command `crowddist`: a file a command, each with a `main(arguments, prog)` that the files of `jobs` call too."""
