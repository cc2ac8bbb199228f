/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A replay counts what happened: every byte that is wrong, every block matched and not delivered,
 * every put not acknowledged. Library and daemon are stood in for by a store in this file that can
 * be told to break each promise.
 */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>

#include "base/status.h"
#include "engine/include/skep/skep.h"
#include "kernels/checksum.h"
#include "tests/base/unit.h"
#include "tools/skep/commands.h"
#include "tools/skep/link.h"
#include "tools/skep/replay.h"
#include "tools/skep/replay_daemon.h"
#include "tools/skep/replay_report.h"
#include "tools/skep/workload.h"

#define PAYLOAD "4096"
#define SLOTS	65536

struct skep {
	bool open;
};
struct skep_space {
	int unused;
};
struct skep_chain {
	uint64_t hashes[TRACE_REQUEST_BLOCKS_MAX / 1024];
	uint32_t count;
};

/* A block of the store: present when @done. */
struct held {
	uint64_t hash;
	unsigned char *bytes;
	bool done, pending;
};

/* The store, and what it shall do wrong: each fault strikes at the nth chance, 0 = never. */
static struct {
	pthread_mutex_t lock;
	struct held held[SLOTS];
	uint64_t payload_bytes;
	unsigned sessions, daemons, asked;
	unsigned wrong_byte_nth, lost_view_nth, short_view_nth, refuse_reserve_nth,
		refuse_commit_nth;
	unsigned lose_commit_nth, down_nth, pending_nth;
	unsigned reserve_most; /* blocks answered at a time; 0 = all */
	bool ssd;	       /* of what is held, the second half waits on the ssd … */
	unsigned load_most;    /* … of which so many come at a time; 0 = all */
	unsigned gone_nth, load_fail_nth, forget_nth;
	const char *reason; /* that is given for what was forgotten */
	int refusal;
	unsigned pins;
	json_t *printed;
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool strikes(unsigned *nth)
{
	return *nth && --*nth == 0;
}

static struct held *held_find(uint64_t hash)
{
	size_t slot = hash % SLOTS;

	for (; fake.held[slot].hash; slot = (slot + 1) % SLOTS)
		if (fake.held[slot].hash == hash)
			break;
	return &fake.held[slot];
}

static void fake_reset(void)
{
	REQUIRE_EQ(fake.sessions, 0);
	REQUIRE_EQ(fake.daemons, 0);
	REQUIRE_EQ(fake.pins, 0);
	for (size_t i = 0; i < SLOTS; i++)
		free(fake.held[i].bytes);
	json_decref(fake.printed);
	memset(&fake, 0, sizeof(fake));
	fake.reason = "never_seen";
	pthread_mutex_init(&fake.lock, NULL);
}

/* --- the library ---------------------------------------------------------------------------- */

int skep_open(const char *where, const struct skep_open_options *options, struct skep **out)
{
	REQUIRE(where && options->struct_bytes == sizeof(*options));
	*out = calloc(1, sizeof(**out));
	REQUIRE(*out);
	pthread_mutex_lock(&fake.lock);
	fake.sessions++;
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

void skep_close(struct skep *session)
{
	if (!session)
		return;
	pthread_mutex_lock(&fake.lock);
	fake.sessions--;
	pthread_mutex_unlock(&fake.lock);
	free(session);
}

int skep_attached(struct skep *session)
{
	return session != NULL;
}

int skep_space_open(
	struct skep *session, const struct skep_space_options *options, struct skep_space **out)
{
	REQUIRE(session && options->struct_bytes == sizeof(*options) && options->part_count == 1);
	REQUIRE_EQ(options->block_tokens, TRACE_BLOCK_TOKENS);
	pthread_mutex_lock(&fake.lock);
	fake.payload_bytes = options->parts[0].bytes;
	pthread_mutex_unlock(&fake.lock);
	*out = calloc(1, sizeof(**out));
	return 0;
}

void skep_space_close(struct skep_space *space)
{
	free(space);
}

int skep_chain_create(struct skep_space *space, struct skep_chain **out)
{
	REQUIRE(space);
	*out = calloc(1, sizeof(**out));
	return 0;
}

void skep_chain_destroy(struct skep_chain *chain)
{
	free(chain);
}

void skep_chain_truncate(struct skep_chain *chain, uint32_t blocks)
{
	REQUIRE(blocks <= chain->count);
	chain->count = blocks;
}

int skep_chain_append(struct skep_chain *chain, const uint32_t *tokens, size_t count)
{
	uint64_t hash = chain->count ? chain->hashes[chain->count - 1] : 1;

	REQUIRE_EQ(count, TRACE_BLOCK_TOKENS);
	REQUIRE(chain->count < ARRAY_COUNT(chain->hashes));
	for (size_t i = 0; i < count; i++)
		hash = mix64(hash ^ tokens[i]);
	chain->hashes[chain->count++] = hash | 1;
	return (int)chain->count;
}

int skep_match(struct skep *session, struct skep_match *requests, unsigned count)
{
	REQUIRE(session && count == 1 && requests->flags == SKEP_MATCH_PIN);
	REQUIRE(requests->refs_max >= requests->chain->count);
	pthread_mutex_lock(&fake.lock);
	for (; requests->matched < requests->chain->count; requests->matched++) {
		struct held *held = held_find(requests->chain->hashes[requests->matched]);

		if (held->done && strikes(&fake.forget_nth))
			held->done = false;
		if (!held->done)
			break;
		requests->refs[requests->matched].slot = (uint32_t)(held - fake.held);
	}
	requests->stored = requests->matched;
	if (fake.ssd)
		requests->matched /= 2;
	requests->pin.cell = requests->matched > 0;
	fake.pins += requests->pin.cell;
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

int skep_load(struct skep *session, struct skep_load *load)
{
	REQUIRE(session && load->deadline_ns == SKEP_FOREVER && load->refs_max == load->count);
	REQUIRE(load->count && load->first + load->count <= load->chain->count);
	pthread_mutex_lock(&fake.lock);
	load->loaded = fake.load_most ? MIN_OF(load->count, fake.load_most) : load->count;
	if (strikes(&fake.gone_nth))
		load->loaded = 0;
	for (uint32_t i = 0; i < load->loaded; i++)
		load->refs[i].slot =
			(uint32_t)(held_find(load->chain->hashes[load->first + i]) - fake.held);
	load->pin.cell = load->loaded > 0;
	fake.pins += load->pin.cell;
	pthread_mutex_unlock(&fake.lock);
	if (!strikes(&fake.load_fail_nth))
		return 0;
	skep_release(session, &load->pin);
	load->loaded = 0;
	return -ETIMEDOUT;
}

int skep_explain(struct skep *session, struct skep_chain *chain, uint64_t deadline_ns,
	struct skep_explanation *out)
{
	REQUIRE(session && deadline_ns == SKEP_FOREVER);
	pthread_mutex_lock(&fake.lock);
	for (out->matched = 0; out->matched < chain->count; out->matched++)
		if (!held_find(chain->hashes[out->matched])->done)
			break;
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

const char *skep_reason_text(unsigned reason)
{
	REQUIRE_EQ(reason, 0);
	return fake.reason;
}

void skep_release(struct skep *session, struct skep_pin *pin)
{
	REQUIRE(session);
	pthread_mutex_lock(&fake.lock);
	fake.pins -= pin->cell;
	pthread_mutex_unlock(&fake.lock);
	pin->cell = 0;
}

int skep_view(
	struct skep *session, const struct skep_ref *ref, uint32_t part, struct skep_view *view)
{
	struct held *held = &fake.held[ref->slot];
	int status = 0;

	REQUIRE(session && part == 0);
	pthread_mutex_lock(&fake.lock);
	REQUIRE(fake.pins > 0);
	view->bytes = held->bytes;
	view->length = fake.payload_bytes;
	if (strikes(&fake.wrong_byte_nth))
		held->bytes[fake.payload_bytes - 1] ^= 0x40;
	if (strikes(&fake.short_view_nth))
		view->length--;
	if (strikes(&fake.lost_view_nth))
		status = -ESTALE;
	pthread_mutex_unlock(&fake.lock);
	return status;
}

static int reserve_locked(const struct skep_reserve *request, struct skep_frame *frames)
{
	uint32_t count = request->count;

	if (strikes(&fake.down_nth))
		return SKEP_EDOWN;
	if (strikes(&fake.refuse_reserve_nth))
		return fake.refusal;
	if (fake.reserve_most)
		count = MIN_OF(count, fake.reserve_most);
	for (uint32_t i = 0; i < count; i++) {
		struct held *held = held_find(request->chain->hashes[request->first + i]);

		frames[i] = (struct skep_frame){.block = request->first + i};
		if (held->done) {
			frames[i].status = -EEXIST;
			continue;
		}
		if (held->pending || strikes(&fake.pending_nth)) {
			frames[i].status = SKEP_EPENDING;
			continue;
		}
		held->hash = request->chain->hashes[request->first + i];
		if (!held->bytes)
			held->bytes = aligned_alloc(64, fake.payload_bytes);
		REQUIRE(held->bytes);
		held->pending = true;
		frames[i].bytes = held->bytes;
		frames[i].length = fake.payload_bytes;
		frames[i].slot = (uint32_t)(held - fake.held);
	}
	return (int)count;
}

int skep_reserve(struct skep *session, struct skep_reserve *request, struct skep_frame *frames)
{
	int status;

	REQUIRE(session && request->struct_bytes == sizeof(*request) && request->count);
	pthread_mutex_lock(&fake.lock);
	status = reserve_locked(request, frames);
	pthread_mutex_unlock(&fake.lock);
	return status;
}

int skep_commit(struct skep *session, struct skep_frame *frames, unsigned count,
	const struct skep_commit *commit)
{
	int committed = 0;

	REQUIRE(session && count && commit->sums == SKEP_SUMS_GIVEN);
	pthread_mutex_lock(&fake.lock);
	for (unsigned i = 0; i < count; i++)
		fake.held[frames[i].slot].pending = false;
	if (strikes(&fake.lose_commit_nth)) {
		pthread_mutex_unlock(&fake.lock);
		return -ETIMEDOUT;
	}
	for (unsigned i = 0; i < count; i++) {
		REQUIRE_EQ(frames[i].status, 0);
		/* The sum that was given is that of the bytes that stand there. */
		REQUIRE(commit->given[i] == checksum_range(frames[i].bytes, fake.payload_bytes));
		if (strikes(&fake.refuse_commit_nth)) {
			frames[i].status = SKEP_EPARENT;
			continue;
		}
		fake.held[frames[i].slot].done = true;
		committed++;
	}
	pthread_mutex_unlock(&fake.lock);
	return committed;
}

int skep_stats(struct skep *session, uint64_t deadline_ns, struct skep_stats *out)
{
	REQUIRE(session && deadline_ns);
	out->dram_bytes = 100 << 20;
	return 0;
}

uint64_t skep_deadline_ms(uint64_t ms)
{
	return clock_ns() + ms * NS_PER_MS;
}

const char *skep_status_text(int status)
{
	return status_text(status);
}

/* --- the daemon and the rest of the tool ----------------------------------------------------- */

int replay_daemon_start(struct replay_daemon *daemon, const struct replay_pool *pool, char *why)
{
	REQUIRE(pool->blocks && why);
	snprintf(daemon->socket, sizeof(daemon->socket), "/nowhere");
	daemon->pid = 1;
	fake.daemons++;
	return 0;
}

void replay_daemon_stop(struct replay_daemon *daemon)
{
	if (daemon->pid)
		fake.daemons--;
	daemon->pid = 0;
}

uint64_t replay_process_bytes(pid_t pid)
{
	return pid == 4711 ? 5 << 20 : 7 << 20;
}

json_t *request_of(const struct arguments *arguments, const char *command)
{
	REQUIRE(arguments->option[OPTION_any_socket]);
	return json_string(command);
}

/* The second answer tells of 600 ms of work in 2 s and of three reasons, one of them unmoved. */
int link_ask_once(const struct arguments *arguments, json_t *request, json_t **answer)
{
	json_int_t step = (json_int_t)fake.asked++;

	REQUIRE(arguments && request);
	json_decref(request);
	*answer = json_pack("{s:i s:{s:I s:I} s:[{s:{s:I s:I s:I}}]}", "pid", 4711, "counters",
		"keeper_busy_ns", 100 + 600 * step, "keeper_wall_ns", 1000 + 2000 * step, "realms",
		"misses", "never_seen", 10 + 100 * step, "evicted", step, "pending", (json_int_t)9);
	REQUIRE(*answer);
	return EXIT_OK;
}

int json_print(json_t *value)
{
	fake.printed = value;
	return EXIT_OK;
}

/* --- tests ---------------------------------------------------------------------------------- */

#define WORDS(...)                                                                                 \
	(char *[])                                                                                 \
	{                                                                                          \
		"replay", __VA_ARGS__, NULL                                                        \
	}

static int replay_words(char **argv)
{
	int argc = 0;

	while (argv[argc])
		argc++;
	return replay_main(argc, argv);
}

/* A replay of 300 made requests with what was broken before; fake.printed holds the report. */
static int replay_run_small(void)
{
	return replay_words(WORDS("--json", "--requests", "300", "--payload-bytes", PAYLOAD));
}

static json_int_t printed(const char *field)
{
	const json_t *value = json_object_get(fake.printed, field);

	REQUIRE(json_is_integer(value));
	return json_integer_value(value);
}

static double printed_real(const char *field)
{
	const json_t *value = json_object_get(fake.printed, field);

	REQUIRE(json_is_real(value));
	return json_real_value(value);
}

static void test_clean_run_reports_all_fields(void)
{
	static const char *const latencies[] = {"match_us", "get_us", "put_us", "hash_us"};
	const json_t *misses;

	fake_reset();
	REQUIRE_EQ(replay_run_small(), EXIT_OK);
	REQUIRE_EQ(printed("requests"), 300);
	REQUIRE_EQ(printed("wrong_blocks") + printed("failed_gets") + printed("refused_puts"), 0);
	/* A store without a limit has what any policy with room enough has. */
	REQUIRE(printed_real("hit_ratio") > 0);
	REQUIRE(printed_real("hit_ratio") == printed_real("lru_hit_ratio"));
	REQUIRE(printed_real("hit_ratio") == printed_real("lru_deepest_hit_ratio"));
	REQUIRE(printed_real("hit_ratio") == printed_real("optimum_hit_ratio"));
	REQUIRE_EQ(printed("put_blocks"), printed("unique_blocks"));
	REQUIRE_EQ(printed("put_blocks") + printed("hit_blocks"), printed("blocks"));
	REQUIRE(printed_real("blocks_per_s") > 0);
	REQUIRE(printed_real("keeper_busy") == 0.3);
	REQUIRE_EQ(printed("rss_bytes"), 5 << 20);
	REQUIRE_EQ(printed("client_rss_bytes"), 7 << 20);
	REQUIRE_EQ(printed("dram_blocks"), 10000);
	for (unsigned i = 0; i < ARRAY_COUNT(latencies); i++) {
		const json_t *latency = json_object_get(fake.printed, latencies[i]);
		double p50 = json_real_value(json_object_get(latency, "p50"));

		REQUIRE(p50 > 0 && json_real_value(json_object_get(latency, "p99")) >= p50);
	}
	misses = json_object_get(fake.printed, "misses");
	REQUIRE_EQ(json_integer_value(json_object_get(misses, "never_seen")), 100);
	REQUIRE_EQ(json_integer_value(json_object_get(misses, "evicted")), 1);
	REQUIRE(!json_object_get(misses, "pending"));
	REQUIRE_EQ(json_integer_value(json_object_get(misses, "not_counted")),
		printed("blocks") - printed("hit_blocks") - 101);
	/* Again over the same store: all is there. */
	json_decref(fake.printed);
	REQUIRE_EQ(replay_run_small(), EXIT_OK);
	REQUIRE_EQ(printed("hit_blocks"), printed("blocks"));
}

static void test_each_broken_promise_is_counted(void)
{
	fake_reset();
	fake.wrong_byte_nth = 40;
	REQUIRE_EQ(replay_run_small(), EXIT_NEGATIVE);
	/* The byte stays wrong: whoever gets the block again sees it. */
	REQUIRE(printed("wrong_blocks") >= 1 && printed("failed_gets") == 0);

	fake_reset();
	fake.lost_view_nth = 7;
	fake.short_view_nth = 90;
	REQUIRE_EQ(replay_run_small(), EXIT_NEGATIVE);
	REQUIRE_EQ(printed("failed_gets"), 2);
	REQUIRE_EQ(printed("wrong_blocks"), 0);

	fake_reset();
	fake.refuse_commit_nth = 11;
	REQUIRE_EQ(replay_run_small(), EXIT_NEGATIVE);
	REQUIRE_EQ(printed("refused_puts"), 1);

	fake_reset();
	fake.lose_commit_nth = 3;
	REQUIRE_EQ(replay_run_small(), EXIT_NEGATIVE);
	REQUIRE(printed("refused_puts") >= 1);
}

static int replay_run_ssd(void)
{
	fake.ssd = true;
	return replay_words(WORDS(
		"--json", "--requests", "300", "--payload-bytes", PAYLOAD, "--ssd-blocks", "5000"));
}

static void test_what_waits_on_the_ssd_is_had(void)
{
	json_int_t hits, from_ssd;

	fake_reset();
	REQUIRE_EQ(replay_run_small(), EXIT_OK);
	hits = printed("hit_blocks");
	REQUIRE(!json_object_get(fake.printed, "lost_blocks"));

	for (unsigned most = 0; most < 4; most += 3) {
		fake_reset();
		fake.load_most = most;
		REQUIRE_EQ(replay_run_ssd(), EXIT_OK);
		REQUIRE_EQ(printed("hit_blocks"), hits);
		from_ssd = json_integer_value(
			json_object_get(json_object_get(fake.printed, "hit_by_tier"), "ssd"));
		REQUIRE(from_ssd > hits / 3 && from_ssd < hits);
		REQUIRE_EQ(printed("lost_blocks"), 0);
		REQUIRE_EQ(printed("ssd_blocks"), 5000);
	}

	/* Its bytes are checked like any other's. */
	fake_reset();
	fake.wrong_byte_nth = 40;
	REQUIRE_EQ(replay_run_ssd(), EXIT_NEGATIVE);
	REQUIRE(printed("wrong_blocks") >= 1);

	/* Left between match and load: a miss. Not brought in time: a failed get. */
	fake_reset();
	fake.gone_nth = 5;
	REQUIRE_EQ(replay_run_ssd(), EXIT_OK);
	REQUIRE(printed("hit_blocks") < hits);
	fake_reset();
	fake.load_fail_nth = 5;
	REQUIRE_EQ(replay_run_ssd(), EXIT_NEGATIVE);
	REQUIRE_EQ(printed("failed_gets"), 1);
}

static void test_what_is_lost_is_told_from_what_is_evicted(void)
{
	fake_reset();
	fake.forget_nth = 20;
	fake.reason = "evicted";
	REQUIRE_EQ(replay_run_ssd(), EXIT_OK);
	REQUIRE_EQ(printed("lost_blocks"), 0);

	fake_reset();
	fake.forget_nth = 20;
	fake.reason = "not_remembered";
	REQUIRE_EQ(replay_run_ssd(), EXIT_NEGATIVE);
	REQUIRE(printed("lost_blocks") >= 1);
}

static void test_refused_reservations_count_each_block(void)
{
	static const int refusals[] = {-EAGAIN, SKEP_EPARENT, -ETIMEDOUT, -ENOSPC};

	for (unsigned i = 0; i < ARRAY_COUNT(refusals); i++) {
		fake_reset();
		fake.refuse_reserve_nth = 5;
		fake.refusal = refusals[i];
		REQUIRE_EQ(replay_run_small(), EXIT_NEGATIVE);
		REQUIRE(printed("refused_puts") >= 1);
		REQUIRE_EQ(printed("refused_puts") + printed("put_blocks") + printed("hit_blocks"),
			printed("blocks"));
		REQUIRE_EQ(printed("requests"), 300);
	}
}

static void test_frames_may_come_in_parts(void)
{
	json_int_t hits;

	fake_reset();
	REQUIRE_EQ(replay_run_small(), EXIT_OK);
	hits = printed("hit_blocks");
	fake_reset();
	fake.reserve_most = 3;
	REQUIRE_EQ(replay_run_small(), EXIT_OK);
	REQUIRE_EQ(printed("hit_blocks"), hits);
	REQUIRE_EQ(printed("put_blocks"), printed("unique_blocks"));
}

static void test_blocks_of_other_writers_are_acknowledged(void)
{
	fake_reset();
	fake.pending_nth = 9;
	REQUIRE_EQ(replay_run_small(), EXIT_OK);
	REQUIRE(printed("existing_blocks") >= 1);
	REQUIRE_EQ(printed("refused_puts"), 0);
}

static void test_clients_share_the_requests(void)
{
	fake_reset();
	REQUIRE_EQ(replay_words(WORDS("--json", "--requests", "600", "--payload-bytes", PAYLOAD,
			   "--clients", "4")),
		EXIT_OK);
	REQUIRE_EQ(printed("requests"), 600);
	REQUIRE_EQ(printed("clients"), 4);
	REQUIRE_EQ(printed("wrong_blocks") + printed("failed_gets") + printed("refused_puts"), 0);
	REQUIRE_EQ(printed("put_blocks") + printed("existing_blocks") + printed("hit_blocks"),
		printed("blocks"));
}

static void test_without_a_daemon_it_ends(void)
{
	fake_reset();
	fake.down_nth = 20;
	REQUIRE_EQ(replay_run_small(), EXIT_UNREACHABLE);
	REQUIRE(!fake.printed);
}

static void test_speed_is_kept(void)
{
	struct trace *trace;
	struct workload_config config = workload_default(1);
	double seconds;
	char speed[32];

	config.requests = 40;
	REQUIRE_EQ(workload_make(&trace, &config), 0);
	seconds =
		(double)(trace->requests[39].timestamp_ms - trace->requests[0].timestamp_ms) / 1e3;
	trace_destroy(trace);
	snprintf(speed, sizeof(speed), "%.1fx", seconds / 0.5);
	fake_reset();
	REQUIRE_EQ(replay_words(WORDS("--json", "--requests", "40", "--payload-bytes", PAYLOAD,
			   "--speed", speed)),
		EXIT_OK);
	REQUIRE(printed_real("seconds") >= 0.49);
	REQUIRE(printed_real("seconds") < 5);
}

static void test_a_running_daemon_is_used(void)
{
	fake_reset();
	REQUIRE_EQ(replay_words(WORDS("--json", "--socket", "/run/other", "--requests", "30",
			   "--payload-bytes", "1MiB")),
		EXIT_OK);
	REQUIRE_EQ(printed("dram_blocks"), 100);
	REQUIRE_EQ(printed("payload_bytes"), 1 << 20);
}

static void test_wrong_words_are_refused(void)
{
	char **const wrong[] = {
		WORDS("--clients", "0"), WORDS("--clients", "257"), WORDS("--clients", "x"),
		WORDS("--payload-bytes", "0"), WORDS("--payload-bytes", "2GiB"),
		WORDS("--payload-bytes", "12furlongs"), WORDS("--dram-blocks", "-1"),
		WORDS("--dram-blocks", "1.5"), WORDS("--speed", "fast"), WORDS("--speed", "0x"),
		WORDS("--speed", "nanx"), WORDS("--requests", "0"), WORDS("--seed", ""),
		WORDS("--socket", "/a", "--dram-blocks", "9"), WORDS("--unknown"),
		WORDS("--clients"), WORDS("/nowhere/at.all"), WORDS("/dev/null"), WORDS("a", "b"),
		WORDS("--dram-blocks", "10"), /* less than one request */
	};

	fake_reset();
	for (unsigned i = 0; i < ARRAY_COUNT(wrong); i++)
		REQUIRE_EQ(replay_words(wrong[i]), EXIT_USAGE);
	REQUIRE_EQ(replay_words(WORDS("--help")), EXIT_OK);
}

static void test_people_are_told_the_same(void)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *out = open_memstream(&text, &bytes);
	struct replay_result result = {
		.source = "a trace",
		.tally = {.requests = 1234, .blocks = 10000, .hit_blocks = 2115, .refused_puts = 3},
		.capacity_blocks = 5000,
		.payload_bytes = 16384,
		.clients = 2,
		.before = json_object(),
		.after = json_object(),
	};

	REQUIRE(out);
	result.simulated_hit_blocks.optimum = 3664;
	replay_report_print(&result, out);
	fclose(out);
	REQUIRE(strstr(text, "a trace: 1,234 requests for 10,000 blocks"));
	REQUIRE(strstr(text, "2,115     0.2115\n"));
	REQUIRE(strstr(text, "3,664     0.3664\n"));
	REQUIRE(strstr(text, "2 clients"));
	free(text);
	json_decref(result.before);
	json_decref(result.after);
}

int main(void)
{
	test_clean_run_reports_all_fields();
	test_each_broken_promise_is_counted();
	test_what_waits_on_the_ssd_is_had();
	test_what_is_lost_is_told_from_what_is_evicted();
	test_refused_reservations_count_each_block();
	test_frames_may_come_in_parts();
	test_blocks_of_other_writers_are_acknowledged();
	test_clients_share_the_requests();
	test_without_a_daemon_it_ends();
	test_speed_is_kept();
	test_a_running_daemon_is_used();
	test_wrong_words_are_refused();
	test_people_are_told_the_same();
	fake_reset();
	return 0;
}
