"""The worker process: a Celery application and its two tasks."""
