/* SPDX-License-Identifier: Apache-2.0 */
/* `skep bench` reads its words, finds its middle values and reports them as it should. */
#include "tools/skep/bench.c"
#include "tools/skep/bench_index.c"

#include "base/config/units.h"
#include "tests/base/unit.h"

/* What it would have measured. */
static struct bench_options asked;
static enum bench_kind asked_kind;

int bench_match(const struct bench_options *options)
{
	asked = *options;
	asked_kind = BENCH_MATCH;
	return 0;
}

int bench_local(const struct bench_options *options)
{
	asked = *options;
	asked_kind = BENCH_LOCAL;
	return 0;
}

int bench_ssd(const struct bench_options *options)
{
	asked = *options;
	asked_kind = BENCH_SSD;
	return 0;
}

/* What it would have printed. */
static json_t *printed;

int json_print(json_t *value)
{
	json_decref(printed);
	printed = value;
	return value ? EXIT_OK : EXIT_DAEMON;
}

static int bench(const char *line)
{
	char words[256], *argv[16] = {NULL}, *rest;
	int argc = 0;

	asked_kind = 0;
	snprintf(words, sizeof(words), "%s", line);
	for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
		argv[argc++] = word;
	return bench_main(argc, argv);
}

static void words_are_read(void)
{
	REQUIRE_EQ(bench("bench match"), EXIT_OK);
	REQUIRE_EQ(asked_kind, BENCH_MATCH);
	REQUIRE_EQ(asked.blocks, 2048);
	REQUIRE_EQ(asked.block_tokens, 16);
	REQUIRE_EQ(asked.index_blocks, 1000000);
	REQUIRE_EQ(asked.json, 0);
	/* As `skep --json bench local` hands it over. */
	REQUIRE_EQ(bench("bench --json local --block-bytes 512KiB --clients 3 --seed 0"), EXIT_OK);
	REQUIRE_EQ(asked_kind, BENCH_LOCAL);
	REQUIRE_EQ(asked.block_bytes, 512 << 10);
	REQUIRE_EQ(asked.clients, 3);
	REQUIRE_EQ(asked.seed, 0);
	REQUIRE_EQ(asked.json, 1);
	REQUIRE_EQ(bench("bench ssd --ssd-bytes 1GiB --ssd-path /disk"), EXIT_OK);
	REQUIRE_EQ(asked_kind, BENCH_SSD);
	REQUIRE_EQ(asked.ssd_bytes, 1 << 30);
}

static void wrong_words_are_refused(void)
{
	static const char *const lines[] = {"bench", "bench both", "bench match local",
		"bench match --blocks 0", "bench match --blocks 1x", "bench match --blocks",
		"bench match --blocks -1", "bench match --blocks 65537", "bench match --clients 2",
		"bench local --block-bytes 4095", "bench local --block-bytes 2GiB",
		"bench local --block-bytes 4096MB", "bench local --seed 18446744073709551616",
		"bench local --socket /run/skepd.sock", "bench match --ssd-path /disk",
		"bench ssd --ssd-bytes 1MiB"};

	for (unsigned i = 0; i < ARRAY_COUNT(lines); i++) {
		if (bench(lines[i]) != EXIT_USAGE || asked_kind) {
			fprintf(stderr, "%s was taken\n", lines[i]);
			exit(1);
		}
	}
	REQUIRE_EQ(bench("bench --help"), EXIT_OK);
	REQUIRE_EQ(bench("bench local --help"), EXIT_OK);
	REQUIRE_EQ(asked_kind, 0);
}

/* Against counting: @share of the samples are below, no more. */
static void quantiles_are_those_of_the_samples(uint64_t seed)
{
	static const double shares[] = {0, 0.25, 0.5, 0.99, 1};

	for (unsigned round = 0; round < 200; round++) {
		size_t count = 1 + unit_random(&seed, 300);
		struct samples samples;

		REQUIRE_EQ(samples_create(&samples, count), 0);
		for (size_t i = 0; i < count; i++)
			samples_add(&samples, unit_random(&seed, 50));
		for (unsigned i = 0; i < ARRAY_COUNT(shares); i++) {
			double value = samples_quantile(&samples, shares[i]);
			size_t below = 0, not_above = 0;

			for (size_t k = 0; k < count; k++) {
				below += samples.values[k] < value;
				not_above += samples.values[k] <= value;
			}
			REQUIRE((double)below <= shares[i] * (double)count);
			REQUIRE((double)not_above >= shares[i] * (double)count);
		}
		samples_free(&samples);
	}
}

static void figures_are_reported(void)
{
	double values[] = {1.5, 2, 4.25};
	const struct samples samples = {values, 3, 3};
	const struct figure figures[] = {{"speed", 2, "how fast", "fast", &samples},
		{"blocks", 2048, "how many", NULL, NULL}, {"ratio", 0.5, "", NULL, NULL},
		{"", 0, "", NULL, NULL}};

	REQUIRE_EQ(figures_print(figures, true), EXIT_OK);
	REQUIRE_EQ(json_object_size(printed), 5);
	REQUIRE(json_real_value(json_object_get(printed, "speed")) == 2);
	REQUIRE(json_real_value(json_object_get(printed, "fast_min")) == 1.5);
	REQUIRE(json_real_value(json_object_get(printed, "fast_max")) == 4.25);
	REQUIRE_EQ(json_integer_value(json_object_get(printed, "blocks")), 2048);
	REQUIRE(json_real_value(json_object_get(printed, "ratio")) == 0.5);
	REQUIRE_EQ(figures_print(figures, false), EXIT_OK);
	json_decref(printed);
}

static void the_mapping_of_an_index_is_known(void)
{
	struct bench_mapping mapping = {0};

	REQUIRE(bench_mapping_read("7f0000001000-7f0000201000 r--s 00000000 00:01 4711"
				   "    /memfd:skep-default-index (deleted)\n",
		&mapping));
	REQUIRE(mapping.base == 0x7f0000001000 && mapping.bytes == 0x200000);
	REQUIRE(!bench_mapping_read("7f0000001000-7f0000201000 rw-s 00000000 00:01 4711"
				    "    /memfd:skep-default-chunk (deleted)\n",
		&mapping));
	REQUIRE(!bench_mapping_read("7f0000001000-7f0000201000 rw-p 00000000 00:00 0\n", &mapping));
}

static void memory_is_looked_at_before(void)
{
	unsigned char *pages = bench_map(3 * 4096);

	REQUIRE(pages && pages[4096] == 1);
	bench_unmap(pages, 3 * 4096);
	REQUIRE_EQ(bench_memory_check(4096), 0);
	REQUIRE_EQ(bench_memory_check(UINT64_MAX / 2), EXIT_DAEMON);
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);

	words_are_read();
	wrong_words_are_refused();
	quantiles_are_those_of_the_samples(seed);
	figures_are_reported();
	the_mapping_of_an_index_is_known();
	memory_is_looked_at_before();
	return 0;
}
