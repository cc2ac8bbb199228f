/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skepd's configuration: any file is refused in one line that names it, or gives settings that the
 * node can be made of and that are within their bounds.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "tests/fuzz/fuzz.h"
#include "tools/skepd/settings.h"

static void settings_use(const struct settings *settings)
{
	struct realm_config *realms = calloc(settings->realm_count, sizeof(*realms));
	struct node_config config;
	json_t *shown;

	SKEP_CHECK(realms && settings->realm_count >= 1);
	settings_node(settings, &config, realms);
	SKEP_CHECK(config.socket_path[0] && config.realm_count == settings->realm_count);
	for (unsigned i = 0; i < config.realm_count; i++) {
		SKEP_CHECK(realms[i].dram_bytes >= 2 << 20);
		SKEP_CHECK(
			realms[i].dram_use_max && realms[i].dram_use_max <= realms[i].dram_bytes);
		SKEP_CHECK(
			realms[i].index_blocks && realms[i].sessions_max && realms[i].age_limit_ns);
	}
	SKEP_CHECK(settings_memory(settings).pool_bytes >= realms[0].dram_bytes);
	shown = settings_json(settings, NULL);
	SKEP_CHECK(shown);
	json_decref(shown);
	free(realms);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	char path[32], why[SETTINGS_WHY_MAX] = "";
	char *words[] = {"skepd", "--config", path, NULL};
	int fd = memfd_create("settings", MFD_CLOEXEC), status;
	struct settings *settings;
	struct actions actions;

	SKEP_CHECK(fd >= 0 && write(fd, data, bytes) == (ssize_t)bytes);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	status = settings_create(3, words, &settings, &actions, why);
	close(fd);
	SKEP_CHECK(!status == !!settings);
	if (settings)
		settings_use(settings);
	else
		SKEP_CHECK(why[0] && !strchr(why, '\n'));
	settings_destroy(settings);
	return 0;
}
