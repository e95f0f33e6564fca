"""The entry of a worker: it imports nothing on its own, since a forkserver's child imports its parent's entry again."""

if __name__ == "__main__":
    from workers.celery_app import main

    main()
