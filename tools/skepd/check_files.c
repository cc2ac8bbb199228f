/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <netdb.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bits.h"
#include "tools/skepd/admin.h"
#include "tools/skepd/check_priv.h"
#include "tools/skepd/secret.h"

/* Checks of what the configuration names: sockets, secrets, tokens, the HTTP page's address. */

/* ----------------------------------------------------------------------------- sockets */

/* Does somebody answer there? */
static bool socket_answers(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t length = strlen(path);
	bool answers;
	int fd;

	if (length >= sizeof(address.sun_path))
		return false;
	memcpy(address.sun_path, path, length);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	/* A full backlog is a daemon too. */
	answers = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 || errno == EAGAIN;
	close(fd);
	return answers;
}

static void socket_check(
	const struct check_scene *scene, const char *path, struct check_result *result)
{
	char folder[NODE_PATH_MAX];
	struct stat stat_now;

	path_folder(path, folder, sizeof(folder));
	if (!scene->running && socket_answers(path)) {
		check_say(result, CHECK_FAIL, "%s: a daemon serves it", path);
		check_advise(result, "stop that daemon, or give this one another socket");
		return;
	}
	if (stat(folder, &stat_now)) {
		bool missing = errno == ENOENT;

		check_say(result, missing ? CHECK_WARN : CHECK_FAIL, "%s: %s", folder,
			strerror(errno));
		check_advise(result, missing ? "it is made at start where skepd may; systemd: "
					       "RuntimeDirectory=skep"
					     : "let skepd's user reach it");
		return;
	}
	if (!S_ISDIR(stat_now.st_mode) || access(folder, W_OK | X_OK)) {
		check_say(result, CHECK_FAIL, "%s: skepd cannot make a socket there", folder);
		check_advise(result, "chown it to skepd's user, or give another socket");
		return;
	}
	if ((stat_now.st_mode & S_IWOTH) && !(stat_now.st_mode & S_ISVTX)) {
		check_say(result, CHECK_WARN, "%s: everybody may rename what lies there", folder);
		check_advise(result,
			"chmod o-w %s: another user could put a socket of his own in "
			"place of this one",
			folder);
		return;
	}
	if (stat_now.st_uid != geteuid() && stat_now.st_uid != 0) {
		check_say(result, CHECK_WARN, "%s: belongs to user %u", folder,
			(unsigned)stat_now.st_uid);
		check_advise(result, "chown it to skepd's user: its owner can replace the socket");
		return;
	}
	check_say(result, CHECK_OK, "%s: the directory is well%s", path,
		scene->running ? "" : ", no daemon serves it");
}

void check_socket(const struct check_scene *scene, struct check_result *result)
{
	socket_check(scene, scene->settings->socket, result);
	for (unsigned i = 0; i < scene->settings->realm_count; i++) {
		const char *path = scene->settings->realms[i].socket;
		struct check_result other = {0};

		if (!*path)
			continue;
		socket_check(scene, path, &other);
		check_worsen(result, &other);
	}
}

/* ------------------------------------------------------------------------ secrets, tokens */

/* A file that holds something secret. @made: it is made at start where it is not there. */
static void secret_check(const char *path, bool made, struct check_result *result)
{
	struct stat stat_now;

	if (stat(path, &stat_now)) {
		bool missing = errno == ENOENT;

		if (missing && made) {
			check_say(result, CHECK_OK, "%s: is made at start", path);
			return;
		}
		check_say(result, CHECK_FAIL, "%s: %s", path, strerror(errno));
		check_advise(result, "%s",
			missing ? "make the file, or take it out of the configuration"
				: "let skepd's user read it");
		return;
	}
	if (!S_ISREG(stat_now.st_mode) || access(path, R_OK)) {
		check_say(result, CHECK_FAIL, "%s: skepd's user cannot read it", path);
		check_advise(result, "chown it to skepd's user, chmod 0400");
		return;
	}
	if (stat_now.st_mode & (S_IRWXO | S_IWGRP)) {
		check_say(result, CHECK_WARN, "%s: mode %04o", path,
			(unsigned)stat_now.st_mode & 07777);
		check_advise(result, "chmod 0400 %s: who reads it can do what it guards", path);
		return;
	}
	check_say(result, CHECK_OK, "%s: mode %04o", path, (unsigned)stat_now.st_mode & 07777);
}

/* The folder in which a secret will be made. */
static void secret_folder_check(const char *path, struct check_result *result)
{
	char folder[SETTINGS_TEXT_MAX];
	struct stat stat_now;

	path_folder(path, folder, sizeof(folder));
	/* The last one is made at start; its own folder must be there. */
	if (stat(folder, &stat_now) && errno == ENOENT) {
		char above[SETTINGS_TEXT_MAX];

		path_folder(folder, above, sizeof(above));
		snprintf(folder, sizeof(folder), "%s", above);
	}
	if (access(folder, W_OK | X_OK)) {
		check_say(result, CHECK_FAIL, "%s: %s", folder, strerror(errno));
		check_advise(result, "set state_dir (systemd: StateDirectory=skep) or secret_file: "
				     "without a lasting secret ids change at each start");
	}
}

void check_secrets(const struct check_scene *scene, struct check_result *result)
{
	const struct settings *settings = scene->settings;
	struct check_result other = {0};
	char path[SETTINGS_TEXT_MAX];

	if (settings->volatile_secret)
		check_say(result, CHECK_OK, "drawn at start and kept nowhere");
	for (unsigned i = 0; i < settings->realm_count; i++) {
		const struct realm_settings *realm = &settings->realms[i];

		settings_secret_path(settings, realm, path);
		if (!settings->volatile_secret) {
			secret_check(path, !*realm->secret_file, &other);
			if (other.verdict == CHECK_OK && access(path, F_OK))
				secret_folder_check(path, &other);
			if (i == 0)
				*result = other;
			check_worsen(result, &other);
		}
		for (unsigned f = 0; f < realm->token_files.count; f++) {
			secret_check(realm->token_files.text[f], false, &other);
			check_worsen(result, &other);
		}
	}
	if (*settings->admin_token_file) {
		secret_check(settings->admin_token_file, false, &other);
		check_worsen(result, &other);
	}
}

/* ------------------------------------------------------------------------ the HTTP page */

void check_admin(const struct check_scene *scene, struct check_result *result)
{
	const char *text = scene->settings->admin;
	struct admin_address address;
	int fd, one = 1, status;

	if (!strcmp(text, "off")) {
		check_say(result, CHECK_OK, "off");
		return;
	}
	status = admin_address_read(text, &address);
	if (status) {
		check_say(result, CHECK_FAIL, "%s: no such address on this host", text);
		check_advise(result, "write HOST:PORT with an address of this host, or off");
		return;
	}
	if (scene->running) {
		check_say(result, CHECK_OK, "%s", text);
		return;
	}
	fd = socket(address.socket.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, &address.socket.any, address.bytes)) {
		check_say(result, CHECK_FAIL, "%s: %s", text, strerror(errno));
		check_advise(result, "give another address (admin:), or off");
	} else if (!address.loopback) {
		check_say(result, CHECK_WARN, "%s: can be reached from other hosts", text);
		check_advise(result, "totals are shown to everybody who reaches it, and tokens "
				     "travel unencrypted: keep to 127.0.0.1 behind a proxy");
	} else {
		check_say(result, CHECK_OK, "%s is free", text);
	}
	if (fd >= 0)
		close(fd);
}
