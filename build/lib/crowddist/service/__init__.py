"""`crowddist serve`: counting over HTTP, with a page to try it. FastAPI and uvicorn are imported here alone."""
