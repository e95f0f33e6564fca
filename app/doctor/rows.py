"""Checks of the database and of what stands in it."""

import ipaddress
from datetime import timedelta

import sqlalchemy as sa

import migrations
from app import __version__
from app.database import Database, database_now, utc_now
from app.doctor.finding import Finding, fail, ok, warn
from app.monitoring import LISTED_SECONDS, read_alive_workers, read_queue, read_workers
from app.queue import QUEUES
from app.settings import Settings
from app.tables import ApiKey, Training

CONNECTIONS_EACH = 15
"""What one API process or worker may open at most: SQLAlchemy's pool of 5 and its overflow of 10."""
SKEW_SECONDS = 5.0
LONG_LEASES = 4
"""A lease that ran out so many of its own lengths ago should have been swept many times over."""


def check_database(settings: Settings, database: Database) -> Finding:
    """Whether it answers."""
    shown = database.engine.url.render_as_string(hide_password=True)
    try:
        with database.engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
    except sa.exc.SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        cure = "start it, and see that ENGRAM_DATABASE_URL is right and that its user may connect (psql with the same URL says more)"
        return fail("database", f"{shown} does not answer: {reason}", cure)
    return ok("database", f"{shown} answers")


def check_schema(settings: Settings, database: Database) -> Finding:
    """Whether this version's code and the database's schema are of an age."""
    found, head = migrations.current(database), migrations.head()
    if found == head:
        return ok("schema", f"at {head}")
    if found is None:
        return fail("schema", "the database is empty", "run `engram migrate`")
    if found[:4] < head[:4]:
        return fail("schema", f"it is at {found}, and this version wants {head}", "back up, then run `engram migrate`")
    if migrations.is_usable(database):
        cure = "finish the upgrade: install the newer version here too"
        return warn("schema", f"it is at {found}, ahead of this version's {head}, which still works with it", cure)
    cure = "install the version that migrated it, or a newer one"
    return fail("schema", f"it is at {found}, and this version knows none after {head}", cure)


def check_workers(settings: Settings, database: Database) -> Finding:
    """Whether somebody is there for what waits."""
    with database.read() as session:
        queue, workers = read_queue(session), read_alive_workers(session, settings)
    alive = {device for one in workers for device in one.row.devices}
    for device in QUEUES:
        depth, seconds = queue[device]
        if depth and not (alive if device == "auto" else device in alive):
            devices = "cpu (or cuda)" if device == "auto" else device
            found = (
                f"{depth} trainings wait for {device}, the oldest for {seconds:.0f} s, and no worker that takes them is alive"
            )
            return fail(
                "workers",
                found,
                f"start one: `engram worker --queues {devices}`; if it runs, its log says why it cannot be seen",
            )
    waiting = sum(depth for depth, _ in queue.values())
    return ok("workers", f"{len(workers)} alive, {waiting} trainings wait")


def check_versions(settings: Settings, database: Database) -> Finding:
    """Whether all workers run this code."""
    with database.read() as session:
        workers = read_alive_workers(session, settings)
    others = {one.row.name: one.row.code_version or "an older one" for one in workers if one.row.code_version != __version__}
    if others:
        shown = ", ".join(f"{name} runs {version}" for name, version in sorted(others.items())[:5])
        cure = "fine while you upgrade; then install the same version everywhere and restart these workers"
        return warn("versions", f"this is {__version__}; {shown}", cure)
    return ok("versions", f"{len(workers)} workers run {__version__}, as here")


def check_clocks(settings: Settings, database: Database) -> Finding:
    """Whether clocks agree with the database's, by which leases are counted."""
    with database.read() as session:
        skews = {"this machine": (utc_now() - database_now(session)).total_seconds()}
        for one in read_alive_workers(session, settings):
            if one.row.clock_at is not None:
                skews[f"worker {one.row.name}"] = (one.row.clock_at - one.row.seen_at).total_seconds()
    wrong = {name: skew for name, skew in skews.items() if abs(skew) > SKEW_SECONDS}
    if wrong:
        found = ", ".join(f"{name} is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}" for name, skew in wrong.items())
        return warn("clocks", f"beside the database's clock, {found}", "let NTP set the clocks (timedatectl set-ntp true)")
    return ok("clocks", f"within {SKEW_SECONDS:g} s of the database's")


def check_leases(settings: Settings, database: Database) -> Finding:
    """Whether somebody brings back what lost its worker."""
    with database.read() as session:
        limit = database_now(session) - timedelta(seconds=LONG_LEASES * settings.lease_seconds)
        stuck = sa.select(Training.public_id).where(Training.status == "running", Training.lease_expires_at < limit)
        ids = session.scalars(stuck.limit(5)).all()
    if ids:
        cure = "start a worker or a scheduler: each sweeps, and brings them back or fails them with worker-lost"
        return fail("leases", f"trainings that run for nobody: {', '.join(ids)}", cure)
    return ok("leases", "every running training has its worker")


def check_hosts(settings: Settings, database: Database) -> Finding:
    """Whether the embedded queue, a file, is to reach other hosts."""
    if not settings.is_queue_embedded:
        return ok("hosts", f"{settings.broker_kind} reaches all hosts")
    with database.read() as session:
        hosts = {one.row.name.rpartition("-")[0] for one in read_workers(session, LISTED_SECONDS)}
    cure = "set ENGRAM_BROKER_URL to one Redis for all parts (redis://host:6379/0)"
    if len(hosts) > 1:
        return fail("hosts", f"workers on {', '.join(sorted(hosts))} and a queue that is a file on each", cure)
    if database.dialect != "sqlite":
        return warn("hosts", "the database can be shared between hosts and the queue is a file on this one", cure)
    return ok("hosts", "one host, embedded queue")


def check_sqlite(settings: Settings, database: Database) -> Finding:
    """Whether readers and the writer can work side by side."""
    if database.dialect != "sqlite":
        return ok("sqlite", "not used")
    with database.engine.connect() as connection:
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
    if mode != "wal":
        cure = "move ENGRAM_DATA_DIR to a local disk with shared memory (ext4, xfs, apfs): every read would block every write"
        return fail("sqlite", f"its journal is {mode!r} instead of 'wal'", cure)
    return ok("sqlite", "journal wal")


def check_postgresql(settings: Settings, database: Database) -> Finding:
    """Whether it lets in as many as there are, and keeps what it has answered."""
    if database.dialect != "postgresql":
        return ok("postgresql", "not used")
    limits = sa.text(
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int, "
        "(SELECT datconnlimit FROM pg_database WHERE datname = current_database()), "
        "(SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user), "
        "current_setting('fsync'), current_setting('synchronous_commit')"
    )
    with database.read() as session:
        server, of_database, of_role, fsync, commit = session.execute(limits).one()
        parts = 1 + len(read_alive_workers(session, settings))
    if fsync == "off" or commit == "off":
        cure = "turn both on (ALTER SYSTEM SET ..., then SELECT pg_reload_conf()): a crash would lose what clients were told is kept"
        return fail("postgresql", f"fsync is {fsync}, synchronous_commit is {commit}", cure)
    limit = min(value for value in (server, of_database, of_role) if value >= 0)
    found = f"{limit} connections for {parts} parts (an API and {parts - 1} workers), each of which may open {CONNECTIONS_EACH}"
    if limit < parts * CONNECTIONS_EACH:
        cure = "raise max_connections, or the limit of the database or the role (ALTER DATABASE ... CONNECTION LIMIT)"
        return warn("postgresql", found, cure)
    return ok("postgresql", found)


def check_access(settings: Settings, database: Database) -> Finding:
    """Whether anybody on the network may do anything."""
    host = settings.host
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    with database.read() as session:
        has_keys = session.scalar(sa.select(sa.exists(sa.select(ApiKey.id))))
    if not is_loopback and settings.insecure and not has_keys:
        cure = "make a key (`engram keys create`), and take away ENGRAM_INSECURE"
        return fail("access", f"whoever reaches {host} may read, change and delete everything", cure)
    reach = "only this machine reaches it" if is_loopback else "others reach it"
    return ok("access", f"{host}: {reach}, {'with keys' if has_keys else 'no key was made yet'}")
