"""What a worker costs that has nothing to do: CPU of its process and of its sessions' server processes, and statements a second.

All engines are idle at once, each in a database of its own; the server logs their statements, which are counted by database.
"""
import os
import time

SETTLE = 8


def nanoseconds(pid):
    """CPU time of a process's threads, to the nanosecond."""
    total = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                total += int(file.read().split()[0])
    except OSError:
        pass  # A thread or session that has just ended.
    return total


def sessions(server, database):
    return [int(row[0]) for row in server.rows("postgres", f"select pid from pg_stat_activity where datname = '{database}'")]


def statements(server, database, offset):
    """Logged statements of a database beyond a place in the log."""
    with open(server.folder / "log", errors="replace") as file:
        file.seek(offset)
        return sum(line.startswith((f"{database} LOG:  statement:", f"{database} LOG:  execute")) for line in file)


def measure(engines, server, seconds, progress, problems):
    """{engine: figures}"""
    workers, found = {}, {}
    try:
        for engine in engines:
            try:
                database = engine.fresh(server, "idle")
                server.rows("postgres", f"alter database {database} set log_statement = 'all'")
                server.leave(database)
                worker = engine.start(server, database, "worker", handler="count", setting=engine.rescue)
                workers[engine.name] = (database, worker)
                worker.ask("go", "started")
            except Exception as error:
                problems.append(f"idle, {engine.name}: {error}")
                progress(problems[-1])
        time.sleep(SETTLE)
        offset, before = (server.folder / "log").stat().st_size, {}
        began = time.monotonic()
        for name, (database, worker) in workers.items():
            pids = sessions(server, database)
            before[name] = (nanoseconds(worker.process.pid), {pid: nanoseconds(pid) for pid in pids})
        time.sleep(seconds)
        took = time.monotonic() - began
        for name, (database, worker) in workers.items():
            client, backends = before[name]
            if worker.process.poll() is not None:
                problems.append(f"idle, {name}: {worker.words()}")
                continue
            server_ns = sum(nanoseconds(pid) - backends.get(pid, 0) for pid in sessions(server, database))
            found[name] = {
                "client": (nanoseconds(worker.process.pid) - client) / took / 1e9, "server": server_ns / took / 1e9,
                "statements": statements(server, database, offset) / took, "sessions": len(backends)}
            progress(f"idle {name}: {100 * found[name]['client']:.2f} % CPU, {found[name]['statements']:.1f} statements/s")
    finally:
        for _, worker in workers.values():
            worker.finish(5)
    return found
