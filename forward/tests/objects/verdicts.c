// Does with a frame what the frame says: byte 14 is the action, byte 15 its argument. Frames begin with an
// Ethernet header of ethertype 0x88b5; others pass.
#include "common.h"

struct entry {
	u32 ifindex;
	u32 program;
};

#define MAP(map_name, kind, value_type)        \
	struct {                               \
		UINT(type, kind);              \
		UINT(max_entries, 8);          \
		TYPE(key, u32);                \
		TYPE(value, value_type);       \
	} map_name SEC(".maps")

MAP(interfaces, 2, u32);        // array: what redirect() is to be called with
MAP(ports, 14, struct entry);   // devmap
MAP(hashed, 25, struct entry);  // devmap_hash
MAP(cpus, 16, struct entry);    // cpumap
MAP(sockets, 17, u32);          // xskmap

#define BROADCAST (1 << 3)
#define EXCLUDE_INGRESS (1 << 4)

enum {
	REDIRECT = 5,
	PORT,
	HASHED,
	ALL_PORTS,
	ALL_HASHED_BUT_INGRESS,
	CPU,
	SOCKET,
	GROW_AND_PORT,
	SHRINK_AND_HASHED,
	PORT_OR_TX,
	PORT_OR_DROP,
	WITH_METADATA,
	WRONG_FLAGS,
	NO_TARGET,
	UNKNOWN_VERDICT,
};

static int swap_addresses(u8 *data)
{
	for (int n = 0; n < 6; n++) {
		u8 byte = data[n];
		data[n] = data[n + 6];
		data[n + 6] = byte;
	}
	return XDP_TX;
}

static int to_interface(u32 index)
{
	u32 *ifindex = map_lookup_elem(&interfaces, &index);
	return ifindex ? redirect(*ifindex, 0) : XDP_ABORTED;
}

static int moved(struct xdp_md *ctx, u8 action, u32 argument)
{
	if (action == SHRINK_AND_HASHED) {
		if (xdp_adjust_tail(ctx, -10))
			return XDP_ABORTED;
		return redirect_map(&hashed, argument, 0);
	}
	if (xdp_adjust_head(ctx, -14))
		return XDP_ABORTED;
	u8 *data = (u8 *)(u64)ctx->data;
	if (data + 28 > (u8 *)(u64)ctx->data_end)
		return XDP_ABORTED;
	__builtin_memcpy(data, data + 14, 14);
	return redirect_map(&ports, argument, 0);
}

static int with_metadata(struct xdp_md *ctx, u32 argument)
{
	if (xdp_adjust_meta(ctx, -4))
		return XDP_ABORTED;
	u32 *meta = (u32 *)(u64)ctx->data_meta;
	if (meta + 1 > (u32 *)(u64)ctx->data)
		return XDP_ABORTED;
	*meta = 0xfeedc0de;
	return redirect_map(&ports, argument, 0);
}

SEC("xdp") int verdicts(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(u64)ctx->data;
	if (data + 60 > (u8 *)(u64)ctx->data_end || *(u16 *)(data + 12) != 0xb588)
		return XDP_PASS;
	u8 action = data[14];
	u32 argument = data[15];
	data[16] = 0x5a; // Every frame shows that it was here.
	switch (action) {
	case XDP_TX:
		return swap_addresses(data);
	case REDIRECT:
		return to_interface(argument);
	case PORT:
		return redirect_map(&ports, argument, 0);
	case HASHED:
		return redirect_map(&hashed, argument, 0);
	case ALL_PORTS:
		return redirect_map(&ports, 0, BROADCAST);
	case ALL_HASHED_BUT_INGRESS:
		return redirect_map(&hashed, 0, BROADCAST | EXCLUDE_INGRESS);
	case CPU:
		return redirect_map(&cpus, argument, 0);
	case SOCKET:
		return redirect_map(&sockets, argument, XDP_PASS);
	case GROW_AND_PORT:
	case SHRINK_AND_HASHED:
		return moved(ctx, action, argument);
	case PORT_OR_TX:
		swap_addresses(data);
		return redirect_map(&ports, argument, XDP_TX);
	case PORT_OR_DROP:
		return redirect_map(&ports, argument, XDP_DROP);
	case WITH_METADATA:
		return with_metadata(ctx, argument);
	case WRONG_FLAGS:
		return redirect(argument, 1);
	case NO_TARGET:
		return XDP_REDIRECT;
	case UNKNOWN_VERDICT:
		return 77;
	}
	return action <= XDP_PASS ? action : XDP_PASS;
}

// The last word on frames that leave by a device map's entry: writes down where it is, and what the first
// program left in front of the frame. Byte 17 of 0xdd drops it, 0xab aborts.
SEC("xdp/devmap") int egress(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(u64)ctx->data;
	u32 *meta = (u32 *)(u64)ctx->data_meta;
	if (data + 60 > (u8 *)(u64)ctx->data_end)
		return XDP_ABORTED;
	data[20] = ctx->egress_ifindex;
	data[21] = ctx->ingress_ifindex;
	data[22] = ctx->rx_queue_index;
	data[23] = meta + 1 <= (u32 *)data && *meta == 0xfeedc0de;
	if (data[17] == 0xdd)
		return XDP_DROP;
	if (data[17] == 0xee) {
		if (xdp_adjust_tail(ctx, -4))
			return XDP_ABORTED;
		return XDP_PASS;
	}
	return data[17] == 0xab ? XDP_TX : XDP_PASS;
}

// The last word on frames for another CPU. Byte 17 of 0xdd drops it, 0xcc redirects it again.
SEC("xdp/cpumap") int remote(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(u64)ctx->data;
	if (data + 60 > (u8 *)(u64)ctx->data_end)
		return XDP_ABORTED;
	data[20] = 0xc9;
	data[21] = ctx->ingress_ifindex;
	if (data[17] == 0xdd)
		return XDP_DROP;
	return data[17] == 0xcc ? redirect_map(&hashed, 1, 0) : XDP_PASS;
}

// For the far ends of virtual cables: the kernel hands redirected frames only to interfaces that have one.
SEC("xdp") int pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}
