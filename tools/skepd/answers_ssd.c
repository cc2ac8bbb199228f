/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "tools/skepd/answers_priv.h"
#include "tools/skepd/metrics.h"

/* Commands about the ssd tier. Worker thread. */

enum { VERIFY_BYTES_STANDARD = 16 << 20 };

json_t *latency_json(const struct histogram *h)
{
	return json_pack("{s:I s:f s:f s:I s:f}", "count", (json_int_t)h->count, "p50_us",
		histogram_quantile(h, 0.5) / NS_PER_US, "p99_us",
		histogram_quantile(h, 0.99) / NS_PER_US, "max_us", (json_int_t)(h->max / NS_PER_US),
		"mean_us", h->count ? (double)h->sum / (double)h->count / NS_PER_US : 0.0);
}

json_t *ssd_json(const struct node_ssd_status *ssd)
{
	json_t *out = json_object();

	set_text(out, "io", ssd->uring ? "io_uring" : "threads");
	if (ssd->uring_error)
		set_text(out, "io_fallback_reason", status_text(ssd->uring_error));
	json_object_set_new(out, "manifest", json_boolean(ssd->manifest));
#define X(name, counter, help) set_number(out, #name, ssd->name);
	SSD_NUMBER_TABLE(X)
#undef X
	json_object_set_new(out, "read", latency_json(&ssd->read_ns));
	json_object_set_new(out, "write", latency_json(&ssd->write_ns));
	return out;
}

/* One step of a scrub; the caller goes on from the cursor, as fast as it likes. */
int run_verify(struct request *request)
{
	struct node_verify verify = {.cursor = (uint32_t)request->cursor,
		.bytes_max = request->has_bytes ? request->bytes : VERIFY_BYTES_STANDARD};
	int status = request_realm(request, &verify.realm);

	if (status)
		return status;
	status = node_verify(request->daemon->node, &verify);
	if (status == -ENOENT)
		return request_fail(request, status, "realm %s has no ssd tier", verify.realm);
	if (status < 0)
		return request_status(request, status);
	set_text(request->answer, "realm", verify.realm);
	if (verify.cursor == UINT32_MAX)
		json_object_set_new(request->answer, "cursor", json_null());
	else
		set_number(request->answer, "cursor", verify.cursor);
	set_number(request->answer, "slots", verify.slots);
	set_number(request->answer, "blocks", verify.blocks);
	set_number(request->answer, "bytes", verify.bytes);
	set_number(request->answer, "bad", verify.bad);
	set_number(request->answer, "unreadable", verify.unreadable);
	return 0;
}

int run_unfence(struct request *request)
{
	int status = node_unfence(request->daemon->node, (unsigned)request->device);

	if (status == -ENODEV)
		return request_fail(request, status, "the ssd tier has no device %u",
			(unsigned)request->device);
	if (status < 0)
		return request_status(request, status);
	set_number(request->answer, "device", request->device);
	return 0;
}
