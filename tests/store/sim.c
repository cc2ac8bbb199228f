/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/store/sim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "tests/store/sim_ssd.h"
#include "tiering/dram/sum.h"

static int sim_sum(void *arg, struct sum_job *job)
{
	struct sim *sim = arg;

	if (!sim->movers || sim->job_count == SIM_JOBS_MAX)
		return -EAGAIN;
	sim->jobs[sim->job_count++] = job;
	return 0;
}

void sim_sums_run(struct sim *sim, unsigned count)
{
	for (; count && sim->job_count; count--) {
		struct sum_job *job = sim->jobs[0];
		struct part_sums part = {.bytes = job->in.bytes,
			.length = job->in.length,
			.range_count = job->in.ranges,
			.part = job->in.part,
			.id_low = job->in.id_low,
			.id_high = job->in.id_high,
			.incarnation = job->in.incarnation,
			.write = job->in.write};
		struct checksum_root root = part_sums_make(&part, job->sums);

		job->root_low = root.low;
		job->root_high = root.high;
		memmove(sim->jobs, sim->jobs + 1, --sim->job_count * sizeof(sim->jobs[0]));
		keeper_summed(sim->keeper, job);
	}
}

static void sim_cut(void *arg, struct session *session)
{
	struct sim *sim = arg;

	sim->cuts++;
	session_stop(session);
}

static int realms_create(struct sim *sim)
{
	const struct sim_options *options = &sim->options;

	for (unsigned i = 0; i < (options->realms ? options->realms : 1); i++) {
		struct realm_config config = {.secret = "0123456789abcdef",
			.secret_bytes = 16,
			.dram_bytes = options->dram_bytes,
			.dram_use_max = options->use_max,
			.index_blocks = options->index_blocks,
			.record_bytes = options->record_bytes ? options->record_bytes : 4 << 20,
			.sessions_max = options->sessions_max,
			.age_limit_ns = options->age_limit_ns,
			.ssd_bytes = options->ssd.bytes};
		int status;

		config.secret[0] = (uint8_t)('0' + options->secret + (int)i);
		snprintf(config.name, sizeof(config.name), "r%u", i);
		status = realm_create(sim->keeper, &config,
			&(struct realm_memory){.chunk_bytes = 64 << 20}, &sim->realms[i]);
		if (status < 0)
			return status;
	}
	sim->realm = sim->realms[0];
	return 0;
}

static int keeper_make(struct sim *sim)
{
	struct keeper_outside outside = {.arg = sim, .sum = sim_sum, .cut = sim_cut};
	uint64_t now = sim->keeper ? sim->keeper->now_ns : NS_PER_S;
	int status;

	keeper_destroy(sim->keeper);
	sim->keeper = NULL;
	sim->job_count = 0;
	if (sim->off) {
		memory_devices_power_on(sim->devices);
		sim->off = false;
	}
	status = keeper_create(++sim->incarnation, sim->options.id_bits, &outside, &sim->keeper);
	if (status < 0)
		return status;
	sim->keeper->now_ns = now;
	status = sim_ssd_open(sim);
	if (status == 0)
		status = realms_create(sim);
	if (status == 0)
		status = sim_ssd_recover(sim);
	if (status < 0) {
		keeper_destroy(sim->keeper);
		sim->keeper = NULL;
		return status;
	}
	for (unsigned i = 0; i < sim->keeper->realm_count; i++)
		realm_ready(sim->realms[i], dram_bytes(sim->realms[i]->dram));
	keeper_tick(sim->keeper); /* the log has the time before it takes records */
	return 0;
}

int sim_create(struct sim *sim, const struct sim_options *options)
{
	int status;

	memset(sim, 0, sizeof(*sim));
	sim->options = *options;
	sim->movers = options->movers;
	sim_ssd_create(sim);
	status = keeper_make(sim);
	if (status < 0)
		sim_ssd_destroy(sim);
	return status;
}

void sim_destroy(struct sim *sim)
{
	if (sim->devices)
		sim_ssd_dry(sim);
	keeper_destroy(sim->keeper);
	sim->keeper = NULL;
	sim_ssd_destroy(sim);
}

int sim_restart(struct sim *sim, bool cut)
{
	list_each (node, &sim->keeper->sessions)
		session_stop(list_item(node, struct session, of_keeper));
	if (sim->devices) {
		sim->off = cut;
		if (cut)
			memory_devices_power_cut(sim->devices);
		sim_ssd_dry(sim);
		memory_devices_faults_end(sim->devices);
	}
	return keeper_make(sim);
}

void sim_client_forget(struct sim_client *client)
{
	if (!client->page_given)
		free(client->page);
	memset(client, 0, sizeof(*client));
}

int sim_client_open_at(struct realm *realm, void *memory, struct sim_client *client)
{
	struct page_end end;

	memset(client, 0, sizeof(*client));
	client->page = memory;
	client->page_given = true;
	client->view = &realm->index.view;
	page_end_init(&end, client->page);
	return session_create(realm, &end, &client->session);
}

int sim_client_open(struct sim *sim, struct realm *realm, struct sim_client *client)
{
	uint8_t *page = aligned_alloc(4096, align_up(page_bytes(), 4096));
	int status;

	(void)sim;
	if (!page)
		return -ENOMEM;
	memset(page, 0, page_scratch_at());
	status = sim_client_open_at(realm, page, client);
	client->page_given = false;
	if (status < 0)
		free(page);
	return status;
}

void sim_client_close(struct sim_client *client, bool bye)
{
	if (bye)
		keeper_session_drain(client->session);
	client->session->said_bye = bye;
	session_end(client->session);
	if (!client->page_given)
		free(client->page);
	memset(client, 0, sizeof(*client));
}

struct page_head *sim_page(const struct sim_client *client)
{
	return (struct page_head *)(void *)client->page;
}

struct pin_cell *sim_pins(const struct sim_client *client)
{
	return (struct pin_cell *)(void *)(client->page + page_pins_at());
}

void *sim_scratch(const struct sim_client *client, uint32_t at)
{
	return client->page + page_scratch_at() + at;
}

uint32_t sim_push(struct sim_client *client, struct submission *message)
{
	struct page_head *head = sim_page(client);
	uint32_t taken = atomic_load_explicit(&head->submission_head.value, memory_order_acquire);

	if (client->tail - taken == PAGE_SUBMISSIONS)
		return 0;
	message->tag = ++client->next_tag;
	memcpy(client->page + page_submissions_at() +
			(size_t)(client->tail % PAGE_SUBMISSIONS) * PAGE_MESSAGE_BYTES,
		message, sizeof(*message));
	atomic_store_explicit(&head->submission_tail.value, ++client->tail, memory_order_release);
	return message->tag;
}

bool sim_take(struct sim_client *client, unsigned queue, struct completion *out)
{
	struct page_head *head = sim_page(client);
	uint32_t tail =
		atomic_load_explicit(&head->completion_tail[queue].value, memory_order_acquire);

	if (tail == client->seen[queue])
		return false;
	memcpy(out,
		client->page + page_completions_at() +
			((size_t)queue * PAGE_COMPLETIONS +
				client->seen[queue] % PAGE_COMPLETIONS) *
				PAGE_MESSAGE_BYTES,
		sizeof(*out));
	client->seen[queue]++;
	atomic_store_explicit(
		&head->completion_head[queue].value, client->seen[queue], memory_order_release);
	return true;
}

void sim_run(struct sim *sim)
{
	while (keeper_round(sim->keeper, 8))
		;
	keeper_tick(sim->keeper);
}

int sim_space_open(
	struct sim_client *client, const struct sim_space *space, struct wire_space_answer *answer)
{
	static struct wire_space_open request;

	memset(&request, 0, sizeof(request));
	memset(answer, 0, sizeof(*answer));
	snprintf(request.name, sizeof(request.name), "%s", space->name);
	snprintf(request.model, sizeof(request.model), "a model");
	request.block_tokens = space->block_tokens;
	request.part_count = space->part_count;
	request.flags = space->opaque;
	for (uint32_t i = 0; i < space->part_count; i++) {
		request.parts[i].bytes = space->bytes[i];
		request.parts[i].ranges = space->ranges[i];
	}
	return space_open(client->session, &request, answer);
}

static uint32_t chain_push(
	struct sim_client *client, const struct sim_put *put, enum submission_op op)
{
	struct reserve_block *blocks = sim_scratch(client, 0);
	const struct probe_chain *chain = put->chain;
	struct submission message = {.op = (uint16_t)op,
		.count = put->count,
		.deadline_ns = put->deadline_ns,
		.u.reserve = {.space = (uint16_t)chain->space,
			.part = (uint16_t)put->part,
			.length = put->length,
			.space_generation = put->space_generation}};
	uint8_t *area = (uint8_t *)blocks;
	uint32_t at = (uint32_t)align_up(put->count * sizeof(*blocks), 8);
	struct probe_name names[256];
	uint32_t named;

	message.slot = SLOT_ROOT(chain->space);
	message.generation = put->space_generation;
	if (put->first) {
		named = probe_names(
			client->view, chain, MIN_OF(put->first, ARRAY_COUNT(names)), names);
		/* A parent that does not stand is named wrongly, as a late client would. */
		message.slot = named == put->first ? names[put->first - 1].slot : 0;
		message.generation =
			named == put->first ? names[put->first - 1].name_generation : 0;
	}
	for (uint32_t i = 0; i < put->count; i++) {
		struct id_input in = probe_input(chain, put->first + i);

		memset(&blocks[i], 0, sizeof(blocks[i]));
		blocks[i].token_at = at;
		blocks[i].token_count = in.token_count;
		memcpy(area + at, in.tokens, in.token_count * 4);
		at += (uint32_t)align_up(in.token_count * 4, 8);
		blocks[i].blob_at = at;
		blocks[i].key_bytes = (uint16_t)in.key_bytes;
		blocks[i].extra_bytes = (uint16_t)in.extra_bytes;
		if (in.key_bytes)
			memcpy(area + at, in.key, in.key_bytes);
		if (in.extra_bytes)
			memcpy(area + at + in.key_bytes, in.extra, in.extra_bytes);
		at += (uint32_t)align_up(in.key_bytes + in.extra_bytes, 8);
	}
	message.scratch_bytes = at;
	return sim_push(client, &message);
}

uint32_t sim_reserve(struct sim_client *client, const struct sim_put *put)
{
	return chain_push(client, put, SUBMIT_RESERVE);
}

uint32_t sim_announce(struct sim_client *client, const struct sim_put *put)
{
	return chain_push(client, put, SUBMIT_ANNOUNCE);
}

/* Lays the parts out for a commit or an abort. */
static struct commit_part *parts_lay(
	struct sim_client *client, const struct sim_written *from, uint32_t count)
{
	struct commit_part *parts = sim_scratch(client, PAGE_SCRATCH_BYTES / 2);

	for (uint32_t i = 0; i < count; i++)
		parts[i] = (struct commit_part){.slot = from[i].slot,
			.part = (uint16_t)from[i].part,
			.ranges = (uint16_t)from[i].ranges,
			.write = from[i].write};
	return parts;
}

uint32_t sim_commit(struct sim_client *client, const struct sim_written *from, uint32_t count)
{
	struct commit_part *parts = parts_lay(client, from, count);
	uint64_t *sums = (uint64_t *)(void *)(parts + count);
	struct realm *realm = client->session->realm;
	struct submission message = {.op = SUBMIT_COMMIT,
		.scratch_at = PAGE_SCRATCH_BYTES / 2,
		.count = count,
		.u.other.kind = COMMIT_SUMS_GIVEN};

	for (uint32_t i = 0; i < count; i++) {
		struct part_sums sum = {.bytes = dram_at(realm->dram, from[i].frame),
			.length = from[i].bytes,
			.range_count = from[i].ranges,
			.part = from[i].part,
			.id_low = from[i].id.low,
			.id_high = from[i].id.high,
			.incarnation = realm->keeper->incarnation,
			.write = from[i].write};
		struct checksum_root root = part_sums_make(&sum, sums);

		parts[i].root_low = root.low;
		parts[i].root_high = root.high;
		sums += sum.range_count;
	}
	message.scratch_bytes = (uint32_t)((uint8_t *)sums - (uint8_t *)parts);
	return sim_push(client, &message);
}

uint32_t sim_commit_blind(struct sim_client *client, const struct sim_written *from, uint32_t count)
{
	struct commit_part *parts = parts_lay(client, from, count);
	struct submission message = {.op = SUBMIT_COMMIT,
		.scratch_at = PAGE_SCRATCH_BYTES / 2,
		.count = count,
		.scratch_bytes = (uint32_t)(count * sizeof(*parts)),
		.u.other.kind = COMMIT_SUMS_GIVEN};

	for (uint32_t i = 0; i < count; i++)
		message.scratch_bytes += from[i].ranges * 8;
	return sim_push(client, &message);
}

uint32_t sim_abort(struct sim_client *client, const struct sim_written *from, uint32_t count)
{
	struct submission message = {.op = SUBMIT_ABORT,
		.scratch_at = PAGE_SCRATCH_BYTES / 2,
		.count = count,
		.scratch_bytes = (uint32_t)(count * sizeof(struct commit_part))};

	parts_lay(client, from, count);
	return sim_push(client, &message);
}
