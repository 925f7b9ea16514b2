// Section names of all times.
#include "common.h"

#define PROG(name, section) SEC(section) int name(struct xdp_md *ctx) { return 2; }
PROG(plain, "xdp")
PROG(slashed, "xdp/slashed")
PROG(fragments, "xdp.frags")
PROG(fragments_cpumap, "xdp.frags/cpumap")
PROG(devmap, "xdp_devmap/redirect")
PROG(old, "xdp_prog1")
PROG(dashed, "xdp-root")
PROG(optional, "?xdp")
PROG(traffic, "tc")
PROG(classify, "classifier")
PROG(probe, "kprobe/nothing")
PROG(tail, "1/0")
PROG(replacement, "freplace/xdp_main")

extern const int CONFIG_HZ __attribute__((section(".kconfig")));
SEC("xdp") int configured(struct xdp_md *ctx)
{
	return CONFIG_HZ;
}

extern int bpf_xdp_metadata_rx_hash(const struct xdp_md *ctx, u32 *hash, u32 *type) __attribute__((section(".ksyms")));
SEC("xdp") int hinted(struct xdp_md *ctx)
{
	u32 hash, type;
	return bpf_xdp_metadata_rx_hash(ctx, &hash, &type);
}

extern u32 missing;
SEC("xdp") int dangling(struct xdp_md *ctx)
{
	return missing;
}
