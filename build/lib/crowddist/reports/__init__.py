"""Output for people: report, pictures, charts, summaries, counts of files. It only reads a run's files."""
