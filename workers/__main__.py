"""The entry of worker and scheduler: it imports nothing on its own, since a forkserver's child imports its parent's entry again."""

if __name__ == "__main__":
    import sys

    from app.loading import load_quietly

    with load_quietly():
        if sys.argv[1:] == ["--scheduler"]:
            from workers.scheduler import main
        else:
            from workers.celery_app import main

    main()
