/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TOOLS_SKEPD_SECRET_H
#define SKEP_TOOLS_SKEPD_SECRET_H

#include <stddef.h>
#include <stdint.h>

/*
 * Files that hold secrets and tokens, and the folders they lie in. Any thread; blocks for the disk.
 * @why (SETTINGS_WHY_MAX) says the cause and the fix.
 */

enum { SECRET_BYTES_MIN = 16 };

/*
 * Reads a whole secret into @to. Every byte counts, a newline at the end too. Return: its bytes;
 * -ENOENT, -EACCES, …; -EINVAL: shorter than SECRET_BYTES_MIN or longer than @room.
 */
int secret_read(const char *path, uint8_t *to, size_t room, char *why);

/*
 * Makes a secret of 256 random bits as a file of mode 0600, in a folder (mode 0700) that is made if
 * it is not there, and reads it. A file that is there already is left as it is and read: of two
 * daemons that start at once, both end up with the same. Return: as secret_read().
 */
int secret_make(const char *path, uint8_t *to, size_t room, char *why);

/* Fills @to with random bytes. Return: 0 or a negative errno. */
int secret_draw(uint8_t *to, size_t bytes);

struct text_list;

/* Appends each line of a file that is neither empty nor begins with '#'. Return: 0 or negative. */
int secret_tokens_read(const char *path, struct text_list *tokens, char *why);

/* The folder of a path: "/a/b" gives "/a", "b" gives ".". */
void path_folder(const char *path, char *folder, size_t room);

#endif
