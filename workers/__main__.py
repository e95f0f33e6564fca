"""The entry of worker and scheduler: it imports nothing on its own, since a forkserver's child imports its parent's entry again."""

if __name__ == "__main__":
    import sys

    if sys.argv[1:] == ["--scheduler"]:
        from workers.scheduler import main
    else:
        from workers.celery_app import main

    main()
