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
#include "store/ledger.h"
#include "store/node_priv.h"
#include "tiering/ssd/manifest.h"

#define COMMIT_EVERY_NS (20 * NS_PER_MS)

struct ledger {
	struct node *node;
	struct manifest *manifest;
	struct ssd_ledger calls;
	struct loop_timer timer; /* of the next commit; set while rows wait */
	struct ledger_rows rows; /* while the tables are read */
	bool made_before;	 /* the manifest says that it was used before */
	bool rebuilt;		 /* it was lost, and the devices hold records */
};

/* --------------------------------------------------------------------------- at the start */

static bool ledger_is_dead(void *arg, uint64_t sequence, uint32_t unit)
{
	struct ledger *ledger = arg;

	return ledger_rows_have(&ledger->rows, (struct ledger_row){sequence, unit});
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
	uint8_t key[LEDGER_KEY_BYTES];

	ledger_key_write(key, (struct ledger_row){sequence, unit});
	/* A row that is lost is counted there: its record may be found again after a crash, whole
	 * and under its own name. */
	manifest_put(ledger->manifest, key, sizeof(key), "", 0);
	commit_soon(ledger);
}

static void ledger_freed(void *arg, uint64_t sequence)
{
	struct ledger *ledger = arg;
	uint8_t from[LEDGER_KEY_BYTES], to[LEDGER_KEY_BYTES];

	ledger_key_write(from, (struct ledger_row){sequence, 0});
	ledger_key_write(to, (struct ledger_row){sequence + 1, 0});
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
	if (status == 0 && (status = ledger_rows_read(ledger->manifest, &ledger->rows)) < 0)
		snprintf(why, why_bytes, "%s: the manifest cannot be read: %s", path,
			status_text(status));
	if (status == 0) {
		ledger->made_before = ledger->rows.made;
		ledger_made_put(ledger->manifest);
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
	ledger_rows_free(&ledger->rows);
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
	ledger_rows_free(&ledger->rows);
	memory_free(ledger);
	node->ledger = NULL;
}
