"""What people look at: the report, sheets of pictures, charts, the table at the terminal, counts of files.

Reports read what a run has left; they decide nothing.
"""
