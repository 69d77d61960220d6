import JobQueue
import Postgres
import PostgresTesting
import Testing

extension JobQueueDatabaseTests {
    @Suite(.serialized) struct ScheduleTrouble {
        @Test func aFullDiskDelaysAScheduleAndDoesNotPauseIt() async throws {
            try await withQueue { queue, database in
                try await database.client.execute(
                    """
                    select queue.schedule_add('nightly', 'quick', cron => '0 3 * * *');
                    update queue.schedule set next_at = clock_timestamp() - interval '1 second';
                    create function public.full() returns trigger language plpgsql as $$
                        begin raise exception 'could not extend file' using errcode = 'disk_full'; end $$;
                    create trigger full_disk before insert on queue.job for each row execute function public.full()
                    """)
                #expect(try await database.client.integer("select fired from queue.sweep()") == 0)
                #expect(try await database.client.integer("select count(*) from queue.schedule where paused_at is null and fired = 0") == 1)
                try await database.client.execute("drop trigger full_disk on queue.job")
                #expect(try await database.client.integer("select fired from queue.sweep()") == 1)
                #expect(try await database.client.integer("select fired from queue.sweep()") == 0, "once for that time")
                #expect(try await queue.list(kind: "quick").count == 1)
            }
        }
    }
}
