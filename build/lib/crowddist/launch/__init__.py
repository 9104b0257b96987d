"""Where the work of a run is done; `run` and `inference` define the work. Ray's launcher is in `distributed`."""
