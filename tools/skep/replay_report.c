/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skep/replay_report.h"

#include <inttypes.h>
#include <string.h>

#include "base/bits.h"
#include "base/clock.h"
#include "tools/text.h"

/* --- figures that both forms show ------------------------------------------------------------ */

static double share(uint64_t part, uint64_t whole)
{
	return whole ? (double)part / (double)whole : 0;
}

static double result_seconds(const struct replay_result *result)
{
	return (double)(result->tally.ended_ns - result->began_ns) / NS_PER_S;
}

static double blocks_a_second(const struct replay_result *result)
{
	double seconds = result_seconds(result);

	return seconds > 0 ? (double)result->tally.blocks / seconds : 0;
}

/* A number of the daemon's status by the path "object.field", 0 where it is not. */
static uint64_t status_number(const json_t *status, const char *object, const char *field)
{
	return (uint64_t)json_integer_value(
		json_object_get(json_object_get(status, object), field));
}

/* The sum over realms of what a counter grew by. */
static uint64_t realms_counted(const struct replay_result *result, const char *counter)
{
	const json_t *realm;
	int64_t sum = 0;
	size_t i;

	json_array_foreach(json_object_get(result->after, "realms"), i, realm) sum +=
		(int64_t)status_number(realm, "counters", counter);
	json_array_foreach(json_object_get(result->before, "realms"), i, realm) sum -=
		(int64_t)status_number(realm, "counters", counter);
	return (uint64_t)sum;
}

static double keeper_busy(const struct replay_result *result)
{
	uint64_t busy_ns = status_number(result->after, "counters", "keeper_busy_ns") -
			   status_number(result->before, "counters", "keeper_busy_ns");
	uint64_t wall_ns = status_number(result->after, "counters", "keeper_wall_ns") -
			   status_number(result->before, "counters", "keeper_wall_ns");

	return share(busy_ns, wall_ns);
}

/* Adds what each realm of @status missed, by reason, to @misses, @sign times. */
static void misses_add(json_t *misses, const json_t *status, int sign)
{
	const json_t *realm;
	size_t i;

	json_array_foreach(json_object_get(status, "realms"), i, realm)
	{
		const char *reason;
		json_t *count;

		json_object_foreach(json_object_get(realm, "misses"), reason, count)
		{
			json_int_t sum = json_integer_value(json_object_get(misses, reason));

			sum += sign * json_integer_value(count);
			json_object_set_new(misses, reason, json_integer(sum));
		}
	}
}

/*
 * Blocks not had, by reason, as the daemon counted them meanwhile. Match records may be dropped
 * when a session's ring is full; what they would have told is "not_counted", so that the sum is
 * right.
 */
static json_t *misses_json(const struct replay_result *result)
{
	json_int_t left = (json_int_t)(result->tally.blocks - result->tally.hit_blocks);
	json_t *misses = json_object();
	const char *reason;
	json_t *count;
	void *next;

	misses_add(misses, result->after, 1);
	misses_add(misses, result->before, -1);
	json_object_foreach_safe(misses, next, reason, count)
	{
		left -= json_integer_value(count);
		if (json_integer_value(count) == 0)
			json_object_del(misses, reason);
	}
	if (left)
		json_object_set_new(misses, "not_counted", json_integer(left));
	return misses;
}

/* --- JSON ----------------------------------------------------------------------------------- */

static void set_number(json_t *object, const char *field, uint64_t value)
{
	json_object_set_new(object, field, json_integer((json_int_t)value));
}

static void set_real(json_t *object, const char *field, double value)
{
	json_object_set_new(object, field, json_real(value));
}

static void set_latency(json_t *object, const char *field, const struct histogram *h)
{
	json_t *latency = json_object();

	set_real(latency, "p50", histogram_quantile(h, 0.5) / NS_PER_US);
	set_real(latency, "p99", histogram_quantile(h, 0.99) / NS_PER_US);
	json_object_set_new(object, field, latency);
}

json_t *replay_report_json(const struct replay_result *result)
{
	const struct replay_tally *tally = &result->tally;
	json_t *out = json_object();

	if (!out)
		return NULL;
	json_object_set_new(out, "source", json_string(result->source));
	set_number(out, "requests", tally->requests);
	set_number(out, "blocks", tally->blocks);
	set_number(out, "hit_blocks", tally->hit_blocks);
	set_real(out, "hit_ratio", share(tally->hit_blocks, tally->blocks));
#define X(policy, field, name)                                                                     \
	set_real(out, #field "_hit_ratio",                                                         \
		share(result->simulated_hit_blocks.field, tally->blocks));
	REPLAY_POLICY_TABLE(X)
#undef X
	set_number(out, "wrong_blocks", tally->wrong_blocks);
	set_number(out, "refused_puts", tally->refused_puts);
	set_number(out, "failed_gets", tally->failed_gets);
	if (result->ssd_blocks) {
		json_t *tiers = json_object();

		set_number(tiers, "dram", tally->hit_blocks - tally->ssd_blocks);
		set_number(tiers, "ssd", tally->ssd_blocks);
		json_object_set_new(out, "hit_by_tier", tiers);
		set_number(out, "ssd_blocks", result->ssd_blocks);
		set_number(out, "shed_blocks", realms_counted(result, "blocks_shed"));
		set_number(out, "lost_blocks", tally->lost_blocks);
		set_number(out, "written_blocks", realms_counted(result, "blocks_written"));
		set_number(out, "moved_blocks", realms_counted(result, "blocks_moved"));
	}
	json_object_set_new(out, "misses", misses_json(result));
	set_real(out, "blocks_per_s", blocks_a_second(result));
	set_real(out, "keeper_busy", keeper_busy(result));
	set_latency(out, "match_us", &tally->match_ns);
	set_latency(out, "get_us", &tally->get_ns);
	set_latency(out, "put_us", &tally->put_ns);
	set_latency(out, "hash_us", &tally->hash_ns);
	set_number(out, "rss_bytes", result->daemon_rss_bytes);
	set_number(out, "client_rss_bytes", result->client_rss_bytes);
	set_number(out, "put_blocks", tally->put_blocks);
	set_number(out, "existing_blocks", tally->existing_blocks);
	set_number(out, "unique_blocks", result->traffic.unique_blocks);
	set_number(out, "dram_blocks", result->capacity_blocks - result->ssd_blocks);
	set_number(out, "payload_bytes", result->payload_bytes);
	set_number(out, "clients", result->clients);
	set_real(out, "seconds", result_seconds(result));
	return out;
}

/* --- for people ----------------------------------------------------------------------------- */

static void print_ratio(FILE *out, const char *name, uint64_t hits, uint64_t blocks)
{
	char count[TEXT_SHORT_BYTES];

	text_count(count, hits);
	fprintf(out, "  %-30s %12s %10.4f\n", name, count, share(hits, blocks));
}

static void print_count(FILE *out, const char *name, uint64_t value)
{
	char count[TEXT_SHORT_BYTES];

	text_count(count, value);
	fprintf(out, "  %-30s %12s\n", name, count);
}

static void print_latency(FILE *out, const char *name, const struct histogram *h)
{
	char p50[TEXT_SHORT_BYTES], p99[TEXT_SHORT_BYTES];

	text_span(p50, (uint64_t)histogram_quantile(h, 0.5));
	text_span(p99, (uint64_t)histogram_quantile(h, 0.99));
	fprintf(out, "  %-30s %12s %10s\n", name, p50, p99);
}

static void print_traffic(const struct replay_result *result, FILE *out)
{
	char payload[TEXT_SHORT_BYTES], requests[TEXT_SHORT_BYTES], blocks[TEXT_SHORT_BYTES];
	char unique[TEXT_SHORT_BYTES], pool[TEXT_SHORT_BYTES];

	text_bytes(payload, result->payload_bytes);
	text_count(requests, result->tally.requests);
	text_count(blocks, result->tally.blocks);
	text_count(unique, result->traffic.unique_blocks);
	text_count(pool, result->capacity_blocks);
	fprintf(out, "\n%s: %s requests for %s blocks, %s of them different\n", result->source,
		requests, blocks, unique);
	fprintf(out, "pool of %s blocks of %s, %" PRIu64 " client%s\n\n", pool, payload,
		result->clients, result->clients == 1 ? "" : "s");
}

static void print_misses(const struct replay_result *result, FILE *out)
{
	json_t *misses = misses_json(result);
	const char *reason;
	json_t *count;

	fprintf(out, "\nnot had, by reason\n");
	json_object_foreach(misses, reason, count)
		print_count(out, reason, (uint64_t)json_integer_value(count));
	json_decref(misses);
}

void replay_report_print(const struct replay_result *result, FILE *out)
{
	const struct replay_tally *tally = &result->tally;
	char rss[TEXT_SHORT_BYTES], client_rss[TEXT_SHORT_BYTES], rate[TEXT_SHORT_BYTES];

	print_traffic(result, out);
	fprintf(out, "  %-30s %12s %10s\n", "", "blocks had", "hit ratio");
	print_ratio(out, "skep", tally->hit_blocks, tally->blocks);
	if (result->ssd_blocks)
		print_ratio(out, "  of them from the ssd", tally->ssd_blocks, tally->blocks);
#define X(policy, field, name)                                                                     \
	print_ratio(out, name, result->simulated_hit_blocks.field, tally->blocks);
	REPLAY_POLICY_TABLE(X)
#undef X
	print_misses(result, out);
	fprintf(out, "\npromises\n");
	print_count(out, "wrong blocks", tally->wrong_blocks);
	print_count(out, "failed gets", tally->failed_gets);
	print_count(out, "refused puts", tally->refused_puts);
	if (result->ssd_blocks) {
		print_count(out, "lost blocks", tally->lost_blocks);
		print_count(out, "shed blocks", realms_counted(result, "blocks_shed"));
	}
	fprintf(out, "\nper request%22s %12s %10s\n", "", "p50", "p99");
	print_latency(out, "tokens made and hashed", &tally->hash_ns);
	print_latency(out, "match", &tally->match_ns);
	print_latency(out, "get, every byte checked", &tally->get_ns);
	print_latency(out, "put, every byte made", &tally->put_ns);
	text_count(rate, (uint64_t)blocks_a_second(result));
	text_bytes(rss, result->daemon_rss_bytes);
	text_bytes(client_rss, result->client_rss_bytes);
	fprintf(out,
		"\n%s blocks/s in %.2f s; keeper busy %.0f %%; daemon %s, clients %s resident\n",
		rate, result_seconds(result), 100 * keeper_busy(result), rss, client_rss);
}
