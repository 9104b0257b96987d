"""Reports a run to MLflow, with a journal for the times when its server does not answer.

Only this folder and `serving` import mlflow; the training step knows nothing of it.
"""
