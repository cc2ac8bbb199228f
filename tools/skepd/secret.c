/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/skepd/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/status.h"
#include "tools/skepd/settings.h"

enum { SECRET_MADE_BYTES = 32 };

void path_folder(const char *path, char *folder, size_t room)
{
	const char *slash = strrchr(path, '/');
	size_t length = slash ? (size_t)(slash - path) : 1;

	if (slash == path)
		length = 1; /* the root itself */
	if (length >= room)
		length = room - 1;
	memcpy(folder, slash ? path : ".", length);
	folder[length] = 0;
}

/* Reads up to @room bytes of a regular file. Return: bytes, or a negative errno; -EFBIG: more. */
static int file_read(const char *path, void *to, size_t room)
{
	size_t used = 0;
	struct stat stat_now;
	int status = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return -errno;
	if (fstat(fd, &stat_now))
		status = -errno;
	else if (!S_ISREG(stat_now.st_mode))
		status = -EINVAL;
	else if (stat_now.st_size > (off_t)room)
		status = -EFBIG;
	while (status == 0 && used < room) {
		ssize_t got = read(fd, (char *)to + used, room - used);

		if (got == 0)
			break;
		if (got < 0 && errno != EINTR)
			status = -errno;
		else if (got > 0)
			used += (size_t)got;
	}
	if (status == 0 && (stat_now.st_mode & S_IRWXO))
		log_warn("config", "%s can be read by everybody (mode %04o): chmod 0400", path,
			(unsigned)stat_now.st_mode & 07777);
	close(fd);
	return status ? status : (int)used;
}

int secret_read(const char *path, uint8_t *to, size_t room, char *why)
{
	int got = file_read(path, to, room);

	if (got == -EFBIG || (got >= 0 && got < SECRET_BYTES_MIN)) {
		snprintf(why, SETTINGS_WHY_MAX,
			"secret file %s: a secret has %d to %zu bytes (head -c 32 /dev/urandom "
			"makes one)",
			path, SECRET_BYTES_MIN, room);
		return -EINVAL;
	}
	if (got < 0)
		snprintf(why, SETTINGS_WHY_MAX, "secret file %s: %s", path, status_text(got));
	return got;
}

int secret_draw(uint8_t *to, size_t bytes)
{
	while (bytes) {
		ssize_t got = getrandom(to, bytes, 0);

		if (got < 0 && errno != EINTR)
			return -errno;
		if (got > 0) {
			to += got;
			bytes -= (size_t)got;
		}
	}
	return 0;
}

/* Writes a fresh secret to @fd as a line of hex digits, so that people can copy it. */
static int secret_write(int fd)
{
	char line[2 * SECRET_MADE_BYTES + 2];
	uint8_t bytes[SECRET_MADE_BYTES];
	int status = secret_draw(bytes, sizeof(bytes));

	if (status)
		return status;
	for (unsigned i = 0; i < sizeof(bytes); i++)
		snprintf(line + 2 * i, 3, "%02x", bytes[i]);
	line[sizeof(line) - 2] = '\n';
	if (write(fd, line, sizeof(line) - 1) != (ssize_t)sizeof(line) - 1)
		return errno ? -errno : -EIO;
	return fsync(fd) ? -errno : 0;
}

int secret_make(const char *path, uint8_t *to, size_t room, char *why)
{
	char folder[SETTINGS_TEXT_MAX], fresh[SETTINGS_TEXT_MAX + 16];
	int fd, status = 0;

	if (access(path, F_OK) == 0)
		return secret_read(path, to, room, why);
	path_folder(path, folder, sizeof(folder));
	if (mkdir(folder, 0700) && errno != EEXIST) {
		status = -errno;
		goto out;
	}
	snprintf(fresh, sizeof(fresh), "%s.XXXXXX", path);
	fd = mkostemp(fresh, O_CLOEXEC); /* mode 0600 */
	if (fd < 0) {
		status = -errno;
		goto out;
	}
	status = secret_write(fd);
	close(fd);
	/* A link, not a rename: it never takes the place of a secret made meanwhile. */
	if (status == 0 && link(fresh, path) && errno != EEXIST)
		status = -errno;
	unlink(fresh);
out:
	if (status) {
		snprintf(why, SETTINGS_WHY_MAX,
			"no secret can be made at %s: %s: give --state-dir, --secret-file, or "
			"--volatile-secret for ids that last as long as this daemon",
			path, status_text(status));
		return status;
	}
	log_info("config", "a secret was made: %s", path);
	return secret_read(path, to, room, why);
}

int secret_tokens_read(const char *path, struct text_list *tokens, char *why)
{
	char text[NODE_TOKENS_MAX * SETTINGS_TOKEN_MAX * 2], *rest = text, *line;
	int got = file_read(path, text, sizeof(text) - 1);

	if (got < 0) {
		snprintf(why, SETTINGS_WHY_MAX, "token file %s: %s", path, status_text(got));
		return got;
	}
	text[got] = 0;
	while ((line = strsep(&rest, "\n"))) {
		size_t length = strcspn(line, "\r");

		line[length] = 0;
		if (!*line || *line == '#')
			continue;
		if (length >= SETTINGS_TOKEN_MAX || tokens->count == NODE_TOKENS_MAX) {
			snprintf(why, SETTINGS_WHY_MAX,
				"token file %s: a realm has at most %d tokens of %d characters",
				path, NODE_TOKENS_MAX, SETTINGS_TOKEN_MAX - 1);
			return -EINVAL;
		}
		memcpy(tokens->text[tokens->count++], line, length + 1);
	}
	return 0;
}
