/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SKEP_TIERING_SSD_MANIFEST_PRIV_H
#define SKEP_TIERING_SSD_MANIFEST_PRIV_H

#include <stdbool.h>

/*
 * The seal of a closed manifest: one file with a sum over all others. RocksDB cannot tell a file
 * that was cut short from one that a crash tore, nor that one of several logs is gone, and goes on
 * with what is left; between a close and the next opening there was no crash, so any change is
 * damage. There is no seal while a manifest is open, nor after a crash.
 */
#define SEAL_NAME "SEAL"

/* Seals the directory @path; blocks. Return: 0 or a negative errno. */
int seal_write(const char *path);

/*
 * Takes the seal off, before an opening; blocks. Return: 0 (it held, or there was none); -EBADMSG:
 * the files are not those that were sealed, and the seal stays; other negative errnos.
 */
int seal_take(const char *path);

/* The same, but the seal stays where it is. */
int seal_look(const char *path);

/* Takes it off whether it holds or not: a repair makes other files. */
void seal_drop(const char *path);

#endif
