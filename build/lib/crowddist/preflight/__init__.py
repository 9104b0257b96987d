"""The dry run (`--check`): finds what would stop a run before it costs hours. Trains nothing and leaves no files."""
