/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/store/play.h"

/* Apart from those of reservations, loads and commits; asks lie there while they are under way. */
enum { WITHDRAW_AT = PAGE_SCRATCH_BYTES / 4, ASKS_AT = PAGE_SCRATCH_BYTES / 4 * 3 };

int32_t play_announce(struct sim *sim, struct sim_client *client, const struct play_chain *chain,
	struct probe_want want)
{
	struct sim_put ask = {.chain = &chain->probe,
		.first = want.first,
		.count = want.count,
		.space_generation = chain->space->answer.generation};
	struct completion done;

	REQUIRE(sim_announce(client, &ask));
	sim_run(sim);
	REQUIRE(sim_take(client, 0, &done));
	return done.status;
}

struct hbm_part play_announced(const struct sim_client *client, uint32_t i)
{
	const struct reserve_block *blocks = sim_scratch(client, 0);

	return (struct hbm_part){.slot = blocks[i].slot,
		.status = blocks[i].status,
		.name_generation = blocks[i].name_generation};
}

uint32_t play_withdraw(struct sim_client *client, const struct hbm_part *parts, uint32_t count,
	enum withdraw_kind kind)
{
	struct submission message = {.op = SUBMIT_WITHDRAW,
		.count = count,
		.scratch_at = WITHDRAW_AT,
		.scratch_bytes = (uint32_t)(count * sizeof(*parts)),
		.u.other.kind = kind};
	uint32_t tag;

	memcpy(sim_scratch(client, WITHDRAW_AT), parts, count * sizeof(*parts));
	tag = sim_push(client, &message);
	REQUIRE(tag != 0);
	return tag;
}

int32_t play_withdrawn(const struct sim_client *client, uint32_t i)
{
	const struct hbm_part *parts = sim_scratch(client, WITHDRAW_AT);

	return parts[i].status;
}

uint32_t play_asks(struct sim_client *client, uint32_t room)
{
	struct submission message = {.op = SUBMIT_ASKS,
		.count = room,
		.scratch_at = ASKS_AT,
		.scratch_bytes = (uint32_t)(room * sizeof(struct hbm_part))};
	uint32_t tag = sim_push(client, &message);

	REQUIRE(tag != 0);
	return tag;
}

struct hbm_part play_asked(const struct sim_client *client, uint32_t i)
{
	const struct hbm_part *parts = sim_scratch(client, ASKS_AT);

	return parts[i];
}
