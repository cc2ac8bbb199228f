/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operators' requests: each command answers, what is malformed is said, and a realm's own session
 * learns nothing of another realm.
 */
#include "tools/skepd/answers.c"

#include <stdlib.h>

#include "tests/base/unit.h"
#include "tests/tools/node_stub.h"

static struct daemon the_daemon = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* "01000…0200…": the stub's block {1, 2}. */
#define ID    "01000000000000000200000000000000"
#define OTHER "01000000000000000300000000000000"

static json_t *ask(const char *realm, const char *text)
{
	json_t *answer = command_answer(&the_daemon, realm, text, strlen(text));

	REQUIRE(json_is_object(answer));
	return answer;
}

static char *text_of(const char *realm, const char *text)
{
	json_t *answer = ask(realm, text);
	char *out = json_dumps(answer, JSON_COMPACT);

	REQUIRE(out);
	json_decref(answer);
	return out;
}

/* The answer is an error of that code whose words hold @part. */
static void refused(const char *realm, const char *text, const char *code, const char *part)
{
	json_t *answer = ask(realm, text);
	const char *error = json_string_value(json_object_get(answer, "error"));

	REQUIRE(error);
	REQUIRE_TEXT(json_string_value(json_object_get(answer, "code")), code);
	if (!strstr(error, part))
		fprintf(stderr, "%s: '%s' does not say '%s'\n", text, error, part);
	REQUIRE(strstr(error, part));
	REQUIRE_EQ(json_object_size(answer), 2);
	json_decref(answer);
}

static void answers(const char *realm, const char *text, const char *part)
{
	char *out = text_of(realm, text);

	if (!strstr(out, part))
		fprintf(stderr, "%s: %s\n  does not hold %s\n", text, out, part);
	REQUIRE(strstr(out, part));
	free(out);
}

static void every_command_answers(void)
{
	answers(NULL, "{\"command\":\"status\"}", "\"loop\":\"epoll\"");
	answers(NULL, "{\"command\":\"status\"}", "\"name\":\"b\"");
	answers(NULL, "{\"command\":\"realms\",\"realm\":\"b\"}", "\"misses\":{\"never_seen\":0");
	answers(NULL, "{\"command\":\"spaces\"}",
		"\"fingerprint\":\"model=m\\nblock_tokens=16\\n\"");
	answers(NULL, "{\"command\":\"sessions\"}", "\"pid\":99");
	answers(NULL, "{\"command\":\"where\",\"id\":\"" ID "\"}", "\"tier\":\"dram\"");
	answers(NULL, "{\"command\":\"evict\",\"realm\":\"a\",\"id\":\"" ID "\"}", "\"blocks\":4");
	answers(NULL, "{\"command\":\"evict\",\"realm\":\"a\",\"bytes\":4096}", "\"bytes\":4097");
	answers(NULL, "{\"command\":\"verify\",\"realm\":\"a\"}", "\"cursor\":7");
	answers(NULL, "{\"command\":\"verify\",\"realm\":\"a\",\"cursor\":7,\"bytes\":4096}",
		"\"cursor\":null");
	answers(NULL, "{\"command\":\"unfence\",\"device\":0}", "\"device\":0");
	refused(NULL, "{\"command\":\"unfence\",\"device\":1}", "ENODEV", "no device 1");
	refused("a", "{\"command\":\"unfence\",\"device\":0}", "EACCES", "operators");
	REQUIRE_EQ(stub.bytes, 4096);
	answers(NULL, "{\"command\":\"purge\",\"realm\":\"b\",\"space\":\"llama\"}",
		"\"blocks\":9");
	REQUIRE_TEXT(stub.purged, "b/llama");
	answers(NULL, "{\"command\":\"purge\",\"realm\":\"a\",\"all\":true}", "\"blocks\":9");
	REQUIRE_TEXT(stub.purged, "a/*");
	answers(NULL, "{\"command\":\"pin\",\"realm\":\"a\",\"id\":\"" ID "\"}", "\"pinned\":true");
	REQUIRE_EQ(stub.pins, 1);
	answers(NULL, "{\"command\":\"unpin\",\"realm\":\"a\",\"id\":\"" ID "\"}",
		"\"pinned\":false");
	REQUIRE_EQ(stub.pins, 0);
	answers(NULL, "{\"command\":\"config\"}", "\"socket_mode\":\"0660\"");
	answers(NULL, "{\"command\":\"check\"}", "\"name\":\"clock\"");
	answers(NULL, "{\"command\":\"metrics\"}", "skep_sessions{realm=");
}

static void blocks_come_in_pages(void)
{
	json_t *answer =
		ask(NULL, "{\"command\":\"blocks\",\"realm\":\"a\",\"limit\":4,\"cursor\":2}");

	REQUIRE_EQ(json_array_size(json_object_get(answer, "blocks")), 4);
	REQUIRE_EQ(json_integer_value(json_object_get(answer, "cursor")), 6);
	json_decref(answer);
	answer = ask(NULL, "{\"command\":\"blocks\",\"realm\":\"a\",\"pinned\":true}");
	/* Every second one of the stub's ten is pinned. */
	REQUIRE_EQ(json_array_size(json_object_get(answer, "blocks")), 5);
	REQUIRE(json_is_null(json_object_get(answer, "cursor")));
	json_decref(answer);
	refused(NULL, "{\"command\":\"blocks\",\"realm\":\"a\",\"space\":\"x\"}", "ENOENT",
		"space");
	refused(NULL, "{\"command\":\"blocks\",\"realm\":\"a\",\"limit\":1001}", "EINVAL", "1000");
	refused(NULL, "{\"command\":\"blocks\",\"realm\":\"a\",\"cursor\":-1}", "EINVAL", "cursor");
}

static void what_is_malformed_is_said(void)
{
	refused(NULL, "", "EINVAL", "not JSON");
	refused(NULL, "[1]", "EINVAL", "object");
	refused(NULL, "{\"command\":\"status\"", "EINVAL", "not JSON");
	refused(NULL, "{\"command\":\"status\",\"command\":\"realms\"}", "EINVAL", "not JSON");
	refused(NULL, "{}", "EINVAL", "no \"command\"");
	refused(NULL, "{\"command\":5}", "EINVAL", "no \"command\"");
	refused(NULL, "{\"command\":\"dance\"}", "EOPNOTSUPP", "dance");
	refused(NULL, "{\"command\":\"status\",\"realm\":\"a\"}", "EINVAL", "takes no argument");
	refused(NULL, "{\"command\":\"realms\",\"realm\":5}", "EINVAL", "must be a text");
	refused(NULL, "{\"command\":\"realms\",\"realm\":\"zz\"}", "ENOENT", "zz");
	refused(NULL, "{\"command\":\"pin\",\"id\":\"" ID "\"}", "EINVAL", "say which one");
	refused(NULL, "{\"command\":\"pin\",\"realm\":\"a\"}", "EINVAL", "32 hex digits");
	refused(NULL, "{\"command\":\"pin\",\"realm\":\"a\",\"id\":\"12\"}", "EINVAL", "32 hex");
	refused(NULL, "{\"command\":\"pin\",\"realm\":\"a\",\"id\":\"" OTHER "\"}", "ENOENT",
		"present");
	refused(NULL, "{\"command\":\"where\",\"id\":\"" OTHER "\"}", "ENOENT", "no block");
	refused(NULL, "{\"command\":\"evict\",\"realm\":\"a\"}", "EINVAL", "\"id\" or \"bytes\"");
	refused(NULL, "{\"command\":\"evict\",\"realm\":\"a\",\"bytes\":0}", "EINVAL", "bytes");
	refused(NULL, "{\"command\":\"evict\",\"realm\":\"a\",\"bytes\":1,\"id\":\"" ID "\"}",
		"EINVAL", "\"id\" or \"bytes\"");
	refused(NULL, "{\"command\":\"purge\",\"realm\":\"a\"}", "EINVAL", "\"space\" or \"all\"");
	refused(NULL, "{\"command\":\"purge\",\"realm\":\"a\",\"all\":\"yes\"}", "EINVAL",
		"true or false");
	refused(NULL, "{\"command\":\"purge\",\"realm\":\"a\",\"space\":\"x\"}", "ENOENT", "x");
	stub.status = -ETIMEDOUT;
	refused(NULL, "{\"command\":\"status\"}", "ETIMEDOUT", "two seconds");
	refused(NULL, "{\"command\":\"where\",\"id\":\"" ID "\"}", "ETIMEDOUT", "two seconds");
	stub.status = 0;
}

/* Everything the session of realm "a" can ask, answered with and without a busy neighbour. */
static void a_realm_learns_nothing_of_another(void)
{
	static const char *const requests[] = {"{\"command\":\"status\"}",
		"{\"command\":\"realms\"}", "{\"command\":\"spaces\"}",
		"{\"command\":\"sessions\"}", "{\"command\":\"blocks\"}",
		"{\"command\":\"where\",\"id\":\"" ID "\"}", "{\"command\":\"metrics\"}",
		"{\"command\":\"realms\",\"realm\":\"a\"}"};

	for (unsigned i = 0; i < ARRAY_COUNT(requests); i++) {
		char *quiet, *busy;

		stub_reset();
		stub.realm_count = 1;
		quiet = text_of("a", requests[i]);
		stub_reset();
		memset(&stub.realms[1].counters, 1, sizeof(stub.realms[1].counters));
		stub.realms[1].dram_used_bytes = 77;
		busy = text_of("a", requests[i]);
		REQUIRE_TEXT(busy, quiet);
		REQUIRE(!strstr(busy, "\"error\":"));
		free(quiet);
		free(busy);
	}
	stub_reset();
	/* A realm that is there and one that is not are refused in the same words. */
	refused("a", "{\"command\":\"realms\",\"realm\":\"b\"}", "EACCES", "sees realm a alone");
	refused("a", "{\"command\":\"realms\",\"realm\":\"zz\"}", "EACCES", "sees realm a alone");
	refused("b", "{\"command\":\"where\",\"id\":\"" ID "\"}", "ENOENT", "no block");
	refused("a", "{\"command\":\"config\"}", "EACCES", "operators");
	refused("a", "{\"command\":\"check\"}", "EACCES", "operators");
	answers("b", "{\"command\":\"evict\",\"bytes\":1}", "\"realm\":\"b\"");
}

/* Names that clients chose come through as JSON, whatever is in them. */
static void names_of_clients_do_no_harm(void)
{
	answers(NULL, "{\"command\":\"sessions\"}", "engine \\u001B[31m");
	snprintf(stub.realms[0].name, NODE_NAME_MAX, "\xff\xfe");
	answers(NULL, "{\"command\":\"realms\"}", "(not UTF-8)");
	stub_reset();
}

/* Cut and changed requests: an object comes back, nothing breaks. */
static void any_text_is_answered(uint64_t seed)
{
	static const char whole[] = "{\"command\":\"blocks\",\"realm\":\"a\",\"limit\":4,"
				    "\"cursor\":2,\"below\":\"" ID "\",\"roots\":true}";

	for (unsigned round = 0; round < 5000; round++) {
		char text[sizeof(whole)];
		uint32_t bytes = unit_random(&seed, sizeof(whole));

		memcpy(text, whole, sizeof(whole));
		for (unsigned i = unit_random(&seed, 3); i; i--)
			text[unit_random(&seed, sizeof(whole))] = (char)unit_random(&seed, 256);
		json_decref(command_answer(&the_daemon, round % 2 ? "a" : NULL, text, bytes));
	}
}

static void memory_may_fail(void)
{
	static const char text[] = "{\"command\":\"status\"}";

	json_set_alloc_funcs(memory_zalloc, memory_free);
	for (unsigned long nth = 1; nth < 400; nth++) {
		json_t *answer;

		memory_fail_after(nth, 1);
		answer = command_answer(&the_daemon, NULL, text, strlen(text));
		memory_fail_after(0, 0);
		json_decref(answer);
	}
	json_set_alloc_funcs(malloc, free);
}

int main(int argc, char **argv)
{
	uint64_t seed = unit_seed(argc, argv);
	char *words[] = {"skepd", "--volatile-secret", "--realm", "a", "--realm", "b", NULL};
	char why[SETTINGS_WHY_MAX];
	struct actions actions;

	unsetenv("SKEP_SOCKET");
	REQUIRE_EQ(settings_create(6, words, &the_daemon.settings, &actions, why), 0);
	the_daemon.node = stub_node();
	stub_reset();
	every_command_answers();
	blocks_come_in_pages();
	what_is_malformed_is_said();
	a_realm_learns_nothing_of_another();
	names_of_clients_do_no_harm();
	any_text_is_answered(seed);
	memory_may_fail();
	settings_destroy(the_daemon.settings);
	return 0;
}
