/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tables of the ssd cannot say: which of their records died while their segment lives on.
 * A row a dead record in the manifest (tiering/ssd/manifest.h), its key the segment's sequence and
 * the unit it began at; the rows of a segment go with it. Rows are handed over in batches, a few
 * dozen a second at most, by the keeper, which never waits for the database.
 *
 * A manifest that is lost is no loss of blocks: every record that a table names counts as live
 * then. It is made anew, and that is told, since what was removed by command may be back.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/memory.h"
#include "store/node_priv.h"
#include "tiering/ssd/manifest.h"

enum { KEY_BYTES = 13 };

#define COMMIT_EVERY_NS (20 * NS_PER_MS)

/* A dead record. */
struct ledger_row {
	uint64_t sequence;
	uint32_t unit;
};

struct ledger {
	struct node *node;
	struct manifest *manifest;
	struct ssd_ledger calls;
	struct loop_timer timer; /* of the next commit; set while rows wait */
	/* While the tables are read: all rows, ordered. */
	struct ledger_row *rows;
	size_t row_count, row_room;
	bool made_before; /* the manifest says that it was used before */
	bool rebuilt;	  /* it was lost, and the devices hold records */
};

static const char made_key[] = "made";

/* "d", then sequence and unit with the high byte first, so that rows lie in that order. */
static void key_write(uint8_t key[KEY_BYTES], uint64_t sequence, uint32_t unit)
{
	key[0] = 'd';
	for (unsigned i = 0; i < 8; i++)
		key[1 + i] = (uint8_t)(sequence >> (56 - 8 * i));
	for (unsigned i = 0; i < 4; i++)
		key[9 + i] = (uint8_t)(unit >> (24 - 8 * i));
}

/* --------------------------------------------------------------------------- at the start */

static int row_take(
	void *arg, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
	struct ledger *ledger = arg;
	const uint8_t *bytes = key;
	struct ledger_row row = {0, 0};

	(void)value;
	(void)value_bytes;
	if (key_bytes != KEY_BYTES)
		return 0; /* of a later version */
	for (unsigned i = 0; i < 8; i++)
		row.sequence = row.sequence << 8 | bytes[1 + i];
	for (unsigned i = 0; i < 4; i++)
		row.unit = row.unit << 8 | bytes[9 + i];
	if (ledger->row_count == ledger->row_room) {
		size_t room = ledger->row_room ? 2 * ledger->row_room : 4096;
		struct ledger_row *grown =
			memory_realloc(ledger->rows, room * sizeof(*ledger->rows));

		if (!grown)
			return -ENOMEM;
		ledger->rows = grown;
		ledger->row_room = room;
	}
	ledger->rows[ledger->row_count++] = row;
	return 0;
}

static int made_see(
	void *arg, const void *key, size_t key_bytes, const void *value, size_t value_bytes)
{
	struct ledger *ledger = arg;

	(void)key;
	(void)key_bytes;
	(void)value;
	(void)value_bytes;
	ledger->made_before = true;
	return 0;
}

static int row_compare(const void *a, const void *b)
{
	const struct ledger_row *one = a, *two = b;

	if (one->sequence != two->sequence)
		return one->sequence < two->sequence ? -1 : 1;
	return one->unit < two->unit ? -1 : one->unit > two->unit;
}

static bool ledger_is_dead(void *arg, uint64_t sequence, uint32_t unit)
{
	struct ledger *ledger = arg;
	struct ledger_row row = {sequence, unit};

	return ledger->row_count &&
	       bsearch(&row, ledger->rows, ledger->row_count, sizeof(ledger->rows[0]), row_compare);
}

/* ------------------------------------------------------------------------------- every day */

static void commit_due(struct loop_timer *timer)
{
	struct ledger *ledger = list_item(timer, struct ledger, timer);

	if (manifest_commit(ledger->manifest, false, NULL) == -EAGAIN)
		loop_timer_set(ledger->node->loop, timer, clock_ns() + COMMIT_EVERY_NS);
}

static void commit_soon(struct ledger *ledger)
{
	if (!ledger->timer.place)
		loop_timer_set(ledger->node->loop, &ledger->timer, clock_ns() + COMMIT_EVERY_NS);
}

static void ledger_dead(void *arg, uint64_t sequence, uint32_t unit)
{
	struct ledger *ledger = arg;
	uint8_t key[KEY_BYTES];

	key_write(key, sequence, unit);
	/* A row that is lost is counted there: its record may be found again after a crash, whole
	 * and under its own name. */
	manifest_put(ledger->manifest, key, sizeof(key), "", 0);
	commit_soon(ledger);
}

static void ledger_freed(void *arg, uint64_t sequence)
{
	struct ledger *ledger = arg;
	uint8_t from[KEY_BYTES], to[KEY_BYTES];

	key_write(from, sequence, 0);
	key_write(to, sequence + 1, 0);
	manifest_delete_range(ledger->manifest, from, to, sizeof(from));
	commit_soon(ledger);
}

int node_ledger_settle(void *arg, struct manifest_done *done)
{
	struct node *node = arg;

	if (node->ledger)
		return manifest_commit(node->ledger->manifest, true, done);
	done->done(done, 0);
	return 0;
}

/* ---------------------------------------------------------------------------- open, close */

static int manifest_open_or_renew(
	struct ledger *ledger, const char *path, uint64_t bytes, char *why, size_t why_bytes)
{
	struct manifest_options options = {
		.path = path, .memory_bytes = bytes, .mailbox = ledger->node->mailbox};
	char kept[4300];
	int status = manifest_open(&options, &ledger->manifest, why, why_bytes);

	if (status != -EBADMSG)
		return status;
	/* Kept aside: somebody may want to see what happened to it. */
	snprintf(kept, sizeof(kept), "%s.damaged-%lld", path, (long long)time(NULL));
	if (rename(path, kept) < 0)
		return status;
	log_error("ssd", "%s; it is kept as %s and made anew", why, kept);
	return manifest_open(&options, &ledger->manifest, why, why_bytes);
}

static int rows_read(struct ledger *ledger)
{
	int status =
		manifest_each(ledger->manifest, made_key, sizeof(made_key) - 1, made_see, ledger);

	if (status == 0)
		status = manifest_each(ledger->manifest, "d", 1, row_take, ledger);
	return status;
}

int node_ledger_open(struct node *node, const struct node_config *config,
	const struct ssd_ledger **out, char *why, size_t why_bytes)
{
	struct ledger *ledger = memory_zalloc(sizeof(*ledger));
	char path[4200];
	int status;

	if (!ledger)
		return -ENOMEM;
	node->ledger = ledger;
	ledger->node = node;
	ledger->timer.due = commit_due;
	ledger->calls = (struct ssd_ledger){.arg = ledger,
		.dead = ledger_dead,
		.freed = ledger_freed,
		.is_dead = ledger_is_dead};
	snprintf(path, sizeof(path), "%s%s",
		config->manifest_path ? config->manifest_path : config->ssds[0].path,
		config->manifest_path ? "" : ".manifest");
	status = manifest_open_or_renew(ledger, path, config->manifest_bytes, why, why_bytes);
	if (status == 0 && (status = rows_read(ledger)) < 0)
		snprintf(why, why_bytes, "%s: the manifest cannot be read: %s", path,
			status_text(status));
	if (status == 0) {
		manifest_put(ledger->manifest, made_key, sizeof(made_key) - 1, "", 0);
		*out = &ledger->calls;
		return 0;
	}
	node_ledger_close(node);
	if (status != -ENOTSUP)
		return status;
	log_warn("ssd", "built without RocksDB: blocks that were removed may be found again after "
			"a restart");
	return 0;
}

void node_ledger_recovered(struct node *node, uint64_t found)
{
	struct ledger *ledger = node->ledger;

	if (!ledger)
		return;
	memory_free(ledger->rows);
	ledger->rows = NULL;
	ledger->row_count = ledger->row_room = 0;
	ledger->rebuilt = !ledger->made_before && found;
	if (ledger->rebuilt)
		log_warn("ssd",
			"the manifest is new and the devices hold %llu records: all of them "
			"count as live, also what was removed by command before",
			(unsigned long long)found);
	commit_soon(ledger);
}

void node_ledger_status(const struct node *node, struct node_ssd_status *out)
{
	struct manifest_status status;

	if (!node->ledger)
		return;
	manifest_status_get(node->ledger->manifest, &status);
	out->manifest = true;
	out->manifest_rebuilt = node->ledger->rebuilt;
	out->manifest_bytes = status.memory_bytes;
	out->manifest_rows_waiting = status.rows_waiting;
	out->manifest_errors = status.errors;
}

void node_ledger_close(struct node *node)
{
	struct ledger *ledger = node->ledger;

	if (!ledger)
		return;
	if (ledger->timer.place)
		loop_timer_cancel(node->loop, &ledger->timer);
	if (ledger->manifest) /* too many under way: the last rows are lost, as by a crash */
		manifest_commit(ledger->manifest, true, NULL);
	manifest_close(ledger->manifest);
	memory_free(ledger->rows);
	memory_free(ledger);
	node->ledger = NULL;
}
