"""Video: frames of files, streams and cameras through OpenCV, and their counts over time."""
