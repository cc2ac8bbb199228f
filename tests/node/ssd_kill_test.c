/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon is killed -9 at any point while clients put and load, and while it starts. What a sync
 * had told to be durable is found by the next one, which answers within two seconds; no byte that
 * is ever had is wrong; no space leaks.
 *
 *	ssd_kill_test [KILLS] [--seed N]
 *
 * A disk lives for some kills, then everything on it is removed and its books are looked at. Disks
 * differ: one file or two, io_uring or plain threads, room for all that is put or much less.
 */
#include <errno.h>

#include "base/loop/loop.h"
#include "tests/node/user.h"

enum {
	DRAM_BYTES = 16 << 20,
	PART_BYTES = 64 << 10,
	BLOCKS = 8,
	WORKERS = 2,
	CALL_MS = 300,
	KILLS = 25,
	DISK_KILLS_FEW = 5, /* of a disk, in a short run */
	DISK_KILLS = 25,
	/* Of each who puts, between two kills: a large disk never evicts. */
	STORIES_MAX = 20,
	LARGE_MIB = 1024,
	SMALL_MIB = 96,
	BOOK_STORIES = 65536,
	CAUGHT_STARTING = 5, /* one start of so many is killed as well */
};

static const struct shape shape = {
	.space = "kill", .block_tokens = 16, .parts = 1, .ranges = 2, .part_bytes = PART_BYTES};

enum { TOLD_READY = 1, TOLD_GONE, TOLD_SYNC, TOLD_BACK, TOLD_ALL, TOLD_STOP };

struct cast_part {
	const char *socket;
	uint64_t number; /* stories of nobody else begin here */
	bool large;
};

/* ----------------------------------------------------------- calls of which the daemon may die */

static void ended(int64_t status)
{
	if (status < 0 && status != SKEP_EDOWN && status != -ETIMEDOUT && status != -EAGAIN &&
		status != -ENOENT && status != -ESTALE && status != SKEP_EPARENT) {
		fprintf(stderr, "a call says %lld\n", (long long)status);
		exit(1);
	}
}

/* Return: all of it was acknowledged. */
static bool put(struct user *user, uint64_t number)
{
	struct story story = story_open(user, number, BLOCKS);
	struct putting what = {.count = BLOCKS,
		.deadline_ns = skep_deadline_ms(CALL_MS * harness_slower()),
		.sums = number % 2 ? SKEP_SUMS_MOVER : SKEP_SUMS_HERE};
	struct put_result result = story_put(user, &story, &what);

	ended(result.status);
	story_close(&story);
	return result.status == 0 && result.committed + result.existed == BLOCKS;
}

/* Return: blocks that were had, each byte of them right. */
static uint32_t get(struct user *user, uint64_t number)
{
	struct story story = story_open(user, number, BLOCKS);
	struct skep_ref refs[BLOCKS];
	struct skep_match match = story_match(user, &story, SKEP_MATCH_PIN, refs);
	struct skep_load load = {.struct_bytes = sizeof(load),
		.chain = story.chain,
		.first = match.matched,
		.count = match.stored - match.matched,
		.refs = refs + match.matched,
		.refs_max = BLOCKS - match.matched,
		.deadline_ns = skep_deadline_ms(10 * CALL_MS * harness_slower())};
	uint32_t had = match.matched;

	if (match.stored > match.matched) {
		ended(skep_load(user->session, &load));
		had += load.loaded;
	}
	story_check(user, &story, refs, 0, had);
	skep_release(user->session, &load.pin);
	skep_release(user->session, &match.pin);
	story_close(&story);
	return had;
}

/* Return: blocks that a match finds, in DRAM or on the ssd. */
static uint32_t found(struct user *user, uint64_t number)
{
	struct story story = story_open(user, number, BLOCKS);
	uint32_t stored = story_match(user, &story, SKEP_MATCH_PEEK, NULL).stored;

	story_close(&story);
	return stored;
}

/* -------------------------------------------------------------------------------- the workers */

struct tally {
	uint64_t puts, had;
};

static void worker(int line, const void *arg)
{
	const struct cast_part *part = arg;
	uint64_t state = harness_seed + part->number, next = part->number;
	unsigned since_down = 0;
	struct tally tally = {0};
	struct user user;

	user_open(&user, part->socket, &shape);
	note_tell(line, (struct note){.what = TOLD_READY});
	while (!line_told(line)) {
		if (!skep_attached(user.session)) {
			since_down = 0;
			usleep(500);
			continue;
		}
		if (!part->large || since_down < STORIES_MAX) {
			tally.puts += put(&user, next++);
			since_down++;
		}
		/* Of late, or any. */
		for (unsigned i = 0; i < 3; i++) {
			uint64_t made = next - part->number, back = i == 0 ? MIN_OF(made, 8) : made;

			if (made)
				tally.had +=
					get(&user, next - 1 - unit_random(&state, (uint32_t)back));
		}
		usleep(2000 + unit_random(&state, 4000));
	}
	line_tell(line, &tally, sizeof(tally));
	user_close(&user);
}

/* --------------------------------------------------------------------------- the bookkeeper */

/*
 * Puts stories too, and remembers which of them were acknowledged when a sync began that succeeded:
 * the first @durable in its book. Those after that which the daemon took with it are struck out.
 */
struct book {
	uint64_t stories[BOOK_STORIES];
	uint32_t count, durable;
	uint64_t next;
};

static struct note book_sync(struct user *user, struct book *book)
{
	uint32_t count = book->count;
	struct note note = {.what = TOLD_SYNC};

	note.status = skep_sync(user->space, skep_deadline_ms(5000 * harness_slower()));
	ended(note.status);
	if (note.status == 0)
		book->durable = count;
	note.words[0] = book->durable;
	return note;
}

/* A new daemon: when it answered, and what it has of the durable stories. */
static struct note book_look(
	struct user *user, struct book *book, const struct cast_part *part, uint64_t *state)
{
	struct note note = {.what = TOLD_BACK};
	uint64_t lacking = 0;

	while (!skep_attached(user->session))
		usleep(200);
	note.words[1] = BLOCKS;
	if (book->durable)
		note.words[1] = found(user, book->stories[book->durable - 1]);
	note.words[0] = clock_ns();
	for (uint32_t i = 0; i < book->durable; i++)
		lacking += BLOCKS - found(user, book->stories[i]);
	for (unsigned i = 0; i < 8 && book->durable; i++) {
		uint32_t at = i ? unit_random(state, book->durable) : book->durable - 1;
		uint32_t had = get(user, book->stories[at]);

		REQUIRE(!part->large || had == BLOCKS);
	}
	note.words[2] = lacking;
	return note;
}

static void bookkeeper(int line, const void *arg)
{
	static struct book book;
	const struct cast_part *part = arg;
	uint64_t state = harness_seed + part->number;
	unsigned since_down = 0;
	struct note note = {.what = TOLD_READY};
	struct user user;

	book.next = part->number;
	user_open(&user, part->socket, &shape);
	note_tell(line, note);
	while (note.what != TOLD_STOP) {
		bool waits =
			note.what == TOLD_GONE; /* nothing is done until another one is there */

		if (!waits && line_quiet(line, unit_random(&state, 6))) {
			if (part->large && since_down++ >= STORIES_MAX)
				continue;
			REQUIRE(book.count < BOOK_STORIES);
			if (put(&user, book.next))
				book.stories[book.count++] = book.next;
			book.next++;
			continue;
		}
		note = note_hear(line);
		if (note.what == TOLD_GONE) {
			book.count = book.durable;
			note_tell(line, note);
		} else if (note.what == TOLD_SYNC) {
			note_tell(line, book_sync(&user, &book));
		} else if (note.what == TOLD_BACK) {
			since_down = 0;
			note_tell(line, book_look(&user, &book, part, &state));
		} else if (note.what == TOLD_ALL) {
			note.words[0] = 0;
			for (uint32_t i = 0; i < book.durable; i++)
				note.words[0] += BLOCKS - get(&user, book.stories[i]);
			note_tell(line, note);
		}
	}
	user_close(&user);
}

/* ------------------------------------------------------------------------------ one disk's life */

struct disk_life {
	struct daemon daemon;
	struct child workers[WORKERS], books;
	bool large;
	/* At the last sync that succeeded, told before it began. */
	uint64_t blocks, evicted;
	uint64_t evicted_ever; /* by all daemons that had this disk, one more for each that died */
};

static struct {
	uint64_t kills, caught_starting, syncs, durable, recovered, puts, had, slowest_ns;
	uint64_t moved, evicted;
} all;

static struct child one_more(const char *name, child_body *body, const struct cast_part *part)
{
	struct child child;

	child_start(&child, name, body, part);
	REQUIRE_EQ(note_hear(child.line).what, TOLD_READY);
	return child;
}

static void life_begin(struct disk_life *life, uint64_t number)
{
	struct daemon *daemon = &life->daemon;
	unsigned devices = 1 + number % 2;
	char name[32];

	*life = (struct disk_life){.large = number % 5 != 2 && number % 5 != 3};
	daemon_init(daemon, (struct daemon_size){.dram_bytes = DRAM_BYTES, .blocks = 32768});
	daemon->realms[0].record_bytes = 32 << 20;
	daemon->realms[0].ssd_bytes = (uint64_t)(life->large ? LARGE_MIB : SMALL_MIB) << 20;
	daemon->config.loop_backend = number % 3 == 1 ? LOOP_BACKEND_EPOLL : LOOP_BACKEND_AUTO;
	for (unsigned i = 0; i < devices; i++) {
		snprintf(name, sizeof(name), "ssd-%llu-%u", (unsigned long long)number, i);
		daemon_ssd_add(daemon, name, daemon->realms[0].ssd_bytes / devices + (16ull << 20));
	}
	daemon_start(daemon);
	for (unsigned i = 0; i < WORKERS; i++) {
		struct cast_part part = {
			daemon->config.socket_path, (i + 1) * 1000000, life->large};

		life->workers[i] = one_more("a worker", worker, &part);
	}
	life->books = one_more("the bookkeeper", bookkeeper,
		&(struct cast_part){daemon->config.socket_path, 9000000, life->large});
}

static void counters_look(struct disk_life *life, struct realm_status *realm)
{
	daemon_realm(&life->daemon, 0, realm);
	REQUIRE_EQ(realm->counters[REALM_COUNTER_blocks_quarantined], 0);
	REQUIRE_EQ(realm->counters[REALM_COUNTER_blocks_lost], 0);
	REQUIRE_EQ(realm->counters[REALM_COUNTER_ssd_read_errors], 0);
	REQUIRE_EQ(realm->counters[REALM_COUNTER_ssd_write_errors], 0);
	REQUIRE(!life->large || realm->counters[REALM_COUNTER_blocks_evicted] == 0);
}

/* A sync; half of the last ones before a kill are in its way. Return: it was waited for. */
static bool sync_begin(struct disk_life *life, bool wait, struct realm_status *before)
{
	counters_look(life, before);
	note_tell(life->books.line, (struct note){.what = TOLD_SYNC});
	return wait;
}

static void sync_end(struct disk_life *life, const struct realm_status *before)
{
	struct note note = note_hear(life->books.line);

	REQUIRE_EQ(note.what, TOLD_SYNC);
	if (note.status < 0)
		return;
	all.syncs++;
	life->blocks = before->blocks_ssd;
	life->evicted = before->counters[REALM_COUNTER_blocks_evicted];
}

static uint64_t life_kill(struct disk_life *life, const struct realm_status *last)
{
	struct daemon *daemon = &life->daemon;
	uint64_t evicted = 0;

	all.moved += last->counters[REALM_COUNTER_blocks_moved];
	all.kills++;
	if (life->large) {
		daemon_kill(daemon);
		return 0;
	}
	evicted = daemon_kill_counting(daemon, REALM_COUNTER_blocks_evicted);
	if (evicted != UINT64_MAX)
		all.evicted += evicted;
	return evicted;
}

static void life_start_again(struct disk_life *life)
{
	while (!unit_random(&harness_seed, CAUGHT_STARTING)) {
		daemon_begin(&life->daemon);
		usleep(unit_random(&harness_seed, 40000));
		daemon_kill(&life->daemon);
		all.caught_starting++;
	}
	daemon_start(&life->daemon);
}

static void life_turn(struct disk_life *life)
{
	unsigned syncs = unit_random(&harness_seed, 4);
	struct realm_status realm, before;
	uint64_t evicted, least;
	bool under_way = false;
	struct note note;

	for (unsigned i = 0; i < syncs && !under_way; i++) {
		sleep_ms(unit_random(&harness_seed, 60));
		under_way =
			!sync_begin(life, i + 1 < syncs || unit_random(&harness_seed, 2), &before);
		if (!under_way)
			sync_end(life, &before);
	}
	usleep(unit_random(&harness_seed, under_way ? 8000 : 100000));
	counters_look(life, &realm);
	evicted = life_kill(life, &realm);
	if (under_way)
		sync_end(life, &before);
	note_tell(life->books.line, (struct note){.what = TOLD_GONE});
	REQUIRE_EQ(note_hear(life->books.line).what, TOLD_GONE);

	life_start_again(life);
	note_tell(life->books.line, (struct note){.what = TOLD_BACK});
	note = note_hear(life->books.line);
	all.slowest_ns = MAX_OF(all.slowest_ns, note.words[0] - life->daemon.started_ns);
	counters_look(life, &realm);
	least = life->blocks - MIN_OF(evicted - life->evicted + 1, life->blocks);
	all.durable += life->large ? life->blocks : least;
	all.recovered += realm.counters[REALM_COUNTER_blocks_recovered];
	if (life->large) {
		REQUIRE_EQ(note.words[1], BLOCKS);
		REQUIRE_EQ(note.words[2], 0);
		REQUIRE(realm.counters[REALM_COUNTER_blocks_recovered] >= life->blocks);
	} else if (evicted != UINT64_MAX) {
		REQUIRE(realm.counters[REALM_COUNTER_blocks_recovered] >= least);
		life->evicted_ever += evicted + 1;
		/* Others go on putting while the books are looked at. */
		REQUIRE(note.words[2] <=
			life->evicted_ever + realm.counters[REALM_COUNTER_blocks_evicted]);
		REQUIRE(note.words[1] == BLOCKS || evicted > life->evicted);
	}
	/* Until another sync is told, this is what was durable: all that was found. */
	life->blocks = realm.counters[REALM_COUNTER_blocks_recovered];
	life->evicted = 0;
}

/* Waits until nothing is under way; then three counts of the same space must agree. */
static void books_agree(const struct daemon *daemon, struct daemon_audit *books)
{
	uint64_t until = clock_ns() + 5 * NS_PER_S * harness_slower();

	for (;;) {
		daemon_audit(daemon, 0, books);
		if (books->idle)
			break;
		REQUIRE(clock_ns() < until);
		sleep_ms(2);
	}
	REQUIRE_EQ(books->counted_units, books->index_units);
	REQUIRE_EQ(books->log_units, books->index_units);
	REQUIRE_EQ(books->blocks_counted, books->blocks);
}

/* Everything is removed: segments come back but for those that are open, or hold a space. */
static void space_comes_back(const struct daemon *daemon)
{
	uint64_t until = clock_ns() + 5 * NS_PER_S * harness_slower();
	struct daemon_audit books;
	struct realm_status realm;

	daemon_purge(daemon, 0);
	do {
		REQUIRE(clock_ns() < until);
		sleep_ms(5);
		daemon_realm(daemon, 0, &realm);
	} while (realm.ssd_segments > 3);
	books_agree(daemon, &books);
	REQUIRE_EQ(books.blocks, 0);
	REQUIRE_EQ(books.index_units, books.space_units);
	REQUIRE(books.space_units <= 1);
}

static void life_end(struct disk_life *life)
{
	struct daemon_audit books;
	struct tally tally;
	struct note note;

	for (unsigned i = 0; i < WORKERS; i++) {
		note_tell(life->workers[i].line, (struct note){.what = TOLD_STOP});
		REQUIRE_EQ(line_hear(life->workers[i].line, &tally, sizeof(tally)), sizeof(tally));
		child_finish(&life->workers[i]);
		all.puts += tally.puts;
		all.had += tally.had;
	}
	note_tell(life->books.line, (struct note){.what = TOLD_ALL});
	note = note_hear(life->books.line);
	REQUIRE(!life->large || note.words[0] == 0);
	note_tell(life->books.line, (struct note){.what = TOLD_STOP});
	child_finish(&life->books);
	books_agree(&life->daemon, &books);
	space_comes_back(&life->daemon);
	daemon_stop(&life->daemon);
	for (unsigned i = 0; i < life->daemon.config.ssd_count; i++)
		unlink(life->daemon.ssds[i].path);
}

int main(int argc, char **argv)
{
	static struct disk_life life;
	uint64_t each;

	harness_begin(&(struct harness_options){
		.argc = argc, .argv = argv, .seconds = 50, .count = KILLS});
	harness_need_disk((LARGE_MIB + 1024ull) << 20);
	each = harness_count <= KILLS ? DISK_KILLS_FEW : DISK_KILLS;
	for (uint64_t i = 0; i < harness_count; i++) {
		if (i % each == 0)
			life_begin(&life, i / each);
		life_turn(&life);
		if (i % each == each - 1 || i + 1 == harness_count)
			life_end(&life);
	}
	printf("%llu kills under load, %llu more while it started; %llu syncs; %llu stories put "
	       "and %llu blocks had by the workers\n",
		(unsigned long long)all.kills, (unsigned long long)all.caught_starting,
		(unsigned long long)all.syncs, (unsigned long long)all.puts,
		(unsigned long long)all.had);
	printf("%llu blocks were durable, %llu were found; %llu moved, %llu evicted; a match "
	       "answered %.0f ms after the start at most\n",
		(unsigned long long)all.durable, (unsigned long long)all.recovered,
		(unsigned long long)all.moved, (unsigned long long)all.evicted,
		(double)all.slowest_ns / 1e6);
	REQUIRE(all.slowest_ns < 2 * NS_PER_S * harness_slower());
	REQUIRE(all.puts && all.had && all.syncs && all.durable);
	return 0;
}
