"""What the server and a client have used until now: CPU, WAL, commits."""
from processes import cpu_seconds


class Usage:
    """What the server and a client have used until now."""

    def __init__(self, server, database, pid):
        self.server_cpu = cpu_seconds(server.child.process.pid)
        self.client_cpu = cpu_seconds(pid) if pid else 0
        self.wal = int(server.one("postgres", "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))
        self.commits = commits(server, database)


def commits(server, database):
    return int(server.one("postgres", f"select pg_stat_get_db_xact_commit(oid) from pg_database where datname = '{database}'"))
