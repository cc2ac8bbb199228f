/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What leaves: after every request of random conversations the blocks in DRAM are exactly those of
 * an LRU list touched deepest first (DESIGN section 5).
 *
 *	store_lru_test [SEED]
 */
#include "tests/store/play.h"

enum { TURNS = 3000, CONVERSATIONS = 40, DEPTH_MAX = 60, FRAME_BYTES = 4096, NODES_MAX = 1 << 15 };

/* ---------------------------------------------------------------------------------- model */

/* Every block ever named, as a tree; the resident ones in a list, hot end first. */
struct node {
	uint32_t parent, path;
	uint32_t hot, cold; /* neighbours; 0: none (node 0 is the list's head) */
	bool resident;
};

struct model {
	struct node nodes[NODES_MAX];
	uint32_t count, resident, capacity;
};

static uint32_t model_node(struct model *model, uint32_t parent, uint32_t path)
{
	for (uint32_t i = parent + 1; i < model->count; i++)
		if (model->nodes[i].parent == parent && model->nodes[i].path == path)
			return i;
	REQUIRE(model->count < NODES_MAX);
	model->nodes[model->count] = (struct node){.parent = parent, .path = path};
	return model->count++;
}

static void model_unlink(struct model *model, uint32_t at)
{
	struct node *node = &model->nodes[at];

	model->nodes[node->hot].cold = node->cold;
	model->nodes[node->cold].hot = node->hot;
}

static void model_touch(struct model *model, uint32_t at)
{
	struct node *node = &model->nodes[at], *head = &model->nodes[0];

	if (node->resident)
		model_unlink(model, at);
	else
		model->resident++;
	node->resident = true;
	node->hot = 0;
	node->cold = head->cold;
	model->nodes[head->cold].hot = at;
	head->cold = at;
	if (model->resident > model->capacity) {
		uint32_t last = head->hot;

		model_unlink(model, last);
		model->nodes[last].resident = false;
		model->resident--;
	}
}

/* Touches the chain's blocks, deepest first. */
static void model_request(struct model *model, const uint32_t *chain, uint32_t count)
{
	while (count--)
		model_touch(model, chain[count]);
}

/* ---------------------------------------------------------------------------- conversations */

struct conversation {
	uint32_t path[DEPTH_MAX], length;
};

struct life {
	struct sim sim;
	struct sim_client client;
	struct play_space space;
	struct model model;
	struct conversation conversations[CONVERSATIONS];
	uint64_t random;
	uint32_t next_path;
};

static const struct sim_space kind = {
	.name = "chat", .block_tokens = 4, .part_count = 1, .bytes = {FRAME_BYTES}, .ranges = {1}};

static uint32_t pick(struct life *life, uint32_t range)
{
	return unit_random(&life->random, range);
}

/* A new conversation begins with one of a few system prompts, or branches off another one. */
static void conversation_begin(struct life *life, struct conversation *conversation)
{
	const struct conversation *other = &life->conversations[pick(life, CONVERSATIONS)];

	if (pick(life, 3) == 0 && other->length) {
		conversation->length = 1 + pick(life, other->length);
		memmove(conversation->path, other->path, sizeof(other->path));
		return;
	}
	conversation->length = 1 + pick(life, 4);
	for (uint32_t i = 0; i < conversation->length; i++)
		conversation->path[i] = 1 + i; /* heads of one prompt, of different lengths */
	conversation->path[0] = 1 + pick(life, 5);
}

static void conversation_grow(struct life *life, struct conversation *conversation)
{
	uint32_t more = pick(life, 6);

	if (!conversation->length || conversation->length + more > DEPTH_MAX || !pick(life, 12))
		conversation_begin(life, conversation);
	for (uint32_t i = 0; i < more && conversation->length < DEPTH_MAX; i++)
		conversation->path[conversation->length++] = life->next_path++;
}

/* One request as an engine makes it: match and pin, use, put the rest, release. */
static void request(struct life *life, const struct conversation *conversation)
{
	static struct play_chain chain;
	static struct play_match match;
	uint32_t nodes[DEPTH_MAX], at = 0, resident = 0;

	for (uint32_t i = 0; i < conversation->length; i++)
		nodes[i] = at = model_node(&life->model, at, conversation->path[i]);
	while (resident < conversation->length && life->model.nodes[nodes[resident]].resident)
		resident++;
	play_chain_make(&chain, &life->sim, &life->space, conversation->path, conversation->length);
	play_match_pin(&life->client, &chain, 0, &match);
	REQUIRE_EQ(match.count, resident);
	if (match.count < conversation->length)
		play_put_blocks(&life->sim, &life->client, &chain,
			(struct probe_want){match.count, conversation->length - match.count});
	sim_run(&life->sim);
	pin_clear(&sim_pins(&life->client)[0]);
	model_request(&life->model, nodes, conversation->length);
}

/* Every block that was ever named is in DRAM exactly if the model holds it. */
static void compare(struct life *life)
{
	const struct realm *realm = life->sim.realm;
	static struct play_chain chain;

	REQUIRE_EQ(realm->slot_count_by_state[ENTRY_PRESENT], life->model.resident);
	for (unsigned i = 0; i < CONVERSATIONS; i++) {
		const struct conversation *conversation = &life->conversations[i];
		uint32_t at = 0, depth = 0;

		play_chain_make(
			&chain, &life->sim, &life->space, conversation->path, conversation->length);
		for (; depth < conversation->length; depth++) {
			at = model_node(&life->model, at, conversation->path[depth]);
			if (!life->model.nodes[at].resident)
				break;
		}
		REQUIRE_EQ(play_present(&life->client, &chain), depth);
	}
}

/* Each block in DRAM has a resident twin in the model: paths are rebuilt from the tokens. */
static void resident_twins(struct life *life)
{
	struct realm *realm = life->sim.realm;
	uint32_t slots = realm->index.head->slot_count;

	for (uint32_t slot = 0; slot < slots; slot++) {
		uint32_t path[DEPTH_MAX], depth = 0, node = 0;
		struct block_status block;

		if (index_state(realm, slot) != ENTRY_PRESENT)
			continue;
		for (uint32_t up = slot; up != NONE32; up = index_parent(realm, up)) {
			block_status_fill(realm, up, &block);
			path[depth++] = block.tokens[0] / 64;
		}
		while (depth)
			node = model_node(&life->model, node, path[--depth]);
		REQUIRE(life->model.nodes[node].resident);
	}
}

/* @step_ns 0: all requests fall in one instant, so that order alone decides. */
static void live(struct life *life, uint32_t capacity, uint64_t step_ns)
{
	struct sim_options options = {.dram_bytes = 2 << 20,
		.use_max = (uint64_t)capacity * FRAME_BYTES,
		.index_blocks = 1024};
	unsigned moved = 0;

	memset(&life->model, 0, sizeof(life->model));
	memset(life->conversations, 0, sizeof(life->conversations));
	life->model.count = 1;
	life->model.capacity = capacity;
	life->next_path = 100;
	REQUIRE_EQ(sim_create(&life->sim, &options), 0);
	REQUIRE_EQ(sim_client_open(&life->sim, life->sim.realm, &life->client), 0);
	play_space_open(&life->client, &kind, &life->space);
	for (unsigned turn = 0; turn < TURNS && life->model.count < NODES_MAX - 512; turn++) {
		struct conversation *conversation =
			&life->conversations[pick(life, 1 + pick(life, CONVERSATIONS))];

		conversation_grow(life, conversation);
		life->sim.keeper->now_ns += step_ns;
		request(life, conversation);
		compare(life);
		if (turn % 64 == 0)
			resident_twins(life);
		moved = turn;
	}
	REQUIRE(moved > 500);
	REQUIRE(life->sim.realm->counters[REALM_COUNTER_blocks_evicted] > 4 * capacity);
	REQUIRE_EQ(life->sim.realm->counters[REALM_COUNTER_blocks_removed], 0);
	sim_client_close(&life->client, true);
	play_nothing_leaks(&life->sim, life->sim.realm);
	sim_destroy(&life->sim);
}

int main(int argc, char **argv)
{
	static const uint32_t capacities[] = {7, 64, 200, 500};
	static struct life life;

	life.random = mix64(unit_seed(argc, argv));
	for (unsigned i = 0; i < ARRAY_COUNT(capacities); i++) {
		live(&life, capacities[i], NS_PER_MS);
		live(&life, capacities[i], 0);
		printf("%u blocks: the same as the model\n", capacities[i]);
	}
	return 0;
}
