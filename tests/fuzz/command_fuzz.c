/* SPDX-License-Identifier: Apache-2.0 */
/* Operators' requests: any bytes are answered with a JSON object, for operators and for realms. */
#include <stdlib.h>

#include "base/check.h"
#include "tests/fuzz/fuzz.h"
#include "tests/tools/node_stub.h"
#include "tools/skepd/commands.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static const char *const realms[] = {NULL, "a", "b"};
	static struct daemon daemon = {.lock = PTHREAD_MUTEX_INITIALIZER};

	if (!daemon.settings) {
		char *words[] = {"skepd", "--volatile-secret", "--config", "/dev/null", "--realm",
			"a", "--realm", "b", NULL};
		char why[SETTINGS_WHY_MAX];
		struct actions actions;

		SKEP_CHECK(settings_create(8, words, &daemon.settings, &actions, why) == 0);
		daemon.node = stub_node();
	}
	stub_reset();
	for (unsigned i = 0; i < sizeof(realms) / sizeof(realms[0]); i++) {
		json_t *answer = command_answer(&daemon, realms[i], (const char *)data, bytes);
		char *text;

		SKEP_CHECK(json_is_object(answer));
		SKEP_CHECK(!json_object_get(answer, "error") == !json_object_get(answer, "code"));
		text = json_dumps(answer, 0);
		SKEP_CHECK(text);
		free(text);
		json_decref(answer);
	}
	return 0;
}
