"""What MLflow, or another tracker, is told of a run, with a journal for the times when it does not answer.

Only this folder and `serving` import mlflow; the training step knows nothing of it.
"""
