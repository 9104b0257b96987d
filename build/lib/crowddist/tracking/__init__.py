"""Reports a run to MLflow, with a journal for the times when its server does not answer.

Only this folder and `serving` import mlflow; training steps know nothing of it.
"""
