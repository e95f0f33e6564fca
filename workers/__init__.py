"""The worker process: a Celery application and its task."""
