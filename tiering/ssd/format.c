/* SPDX-License-Identifier: Apache-2.0 */
#include "tiering/ssd/format.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/bits.h"
#include "base/check.h"
#include "base/hash.h"
#include "tiering/ssd/ssd.h"

static struct ssd_sum sum_of(const void *bytes, size_t count)
{
	XXH128_hash_t hash = XXH3_128bits(bytes, count);

	return (struct ssd_sum){hash.low64, hash.high64};
}

static bool sums_equal(struct ssd_sum a, struct ssd_sum b)
{
	return a.low == b.low && a.high == b.high;
}

void ssd_head_seal(struct ssd_device_head *head)
{
	head->sum = sum_of(head, offsetof(struct ssd_device_head, sum));
}

bool ssd_head_sum_right(const struct ssd_device_head *head)
{
	return sums_equal(head->sum, sum_of(head, offsetof(struct ssd_device_head, sum)));
}

uint32_t ssd_table_units(uint64_t entry_bytes)
{
	return (uint32_t)divide_up(entry_bytes + sizeof(struct ssd_table_head), SSD_UNIT_BYTES);
}

void ssd_table_seal(void *table, struct ssd_table_head *head)
{
	uint64_t bytes = (uint64_t)head->units * SSD_UNIT_BYTES;
	uint8_t *to = (uint8_t *)table + bytes - sizeof(*head);

	SKEP_CHECK(head->units == ssd_table_units(head->entry_bytes));
	memset((uint8_t *)table + head->entry_bytes, 0, bytes - sizeof(*head) - head->entry_bytes);
	memcpy(to, head, sizeof(*head));
	head->sum = sum_of(table, bytes - sizeof(head->sum));
	memcpy(to, head, sizeof(*head));
}

int ssd_table_head_read(
	const void *unit, const struct ssd_table_place *place, struct ssd_table_head *head)
{
	memcpy(head, (const uint8_t *)unit + SSD_UNIT_BYTES - sizeof(*head), sizeof(*head));
	if (head->magic != SSD_TABLE_MAGIC || memcmp(&head->set, &place->set, sizeof(head->set)))
		return -ENOENT;
	if (place->sequence && head->sequence != place->sequence)
		return -ENOENT;
	if (head->table != place->table)
		return -ENOENT;
	if (head->device != place->device || head->segment != place->segment || !head->sequence)
		return -EBADMSG;
	if (!memchr(head->log, 0, sizeof(head->log)) || !head->log[0])
		return -EBADMSG;
	if (head->units == 0 || head->units > SSD_TABLE_UNITS_MAX || head->units > place->end)
		return -EBADMSG;
	if (head->entry_bytes > head->units * SSD_UNIT_BYTES - sizeof(*head) ||
		head->units != ssd_table_units(head->entry_bytes))
		return -EBADMSG;
	if (head->entry_count > head->entry_bytes / sizeof(struct ssd_table_entry))
		return -EBADMSG;
	if (head->table == 0 && (head->entry_count || head->entry_bytes))
		return -EBADMSG;
	return 0;
}

bool ssd_table_sum_right(const void *table, const struct ssd_table_head *head)
{
	return sums_equal(head->sum,
		sum_of(table, (uint64_t)head->units * SSD_UNIT_BYTES - sizeof(head->sum)));
}

int ssd_table_next(
	struct ssd_table_walk *walk, struct ssd_table_entry *entry, const uint8_t **label)
{
	uint32_t rest = walk->bytes - walk->at;

	if (walk->left == 0)
		return rest ? -EBADMSG : 0;
	if (rest < sizeof(*entry))
		return -EBADMSG;
	memcpy(entry, walk->entries + walk->at, sizeof(*entry));
	rest -= (uint32_t)sizeof(*entry);
	if (entry->label_bytes > SSD_LABEL_MAX || align_up(entry->label_bytes, 8) > rest)
		return -EBADMSG;
	if (entry->units == 0 || entry->first < walk->from || entry->first > walk->below ||
		entry->units > walk->below - entry->first)
		return -EBADMSG;
	*label = walk->entries + walk->at + sizeof(*entry);
	walk->at += (uint32_t)(sizeof(*entry) + align_up(entry->label_bytes, 8));
	walk->from = entry->first + entry->units;
	walk->left--;
	return 1;
}
