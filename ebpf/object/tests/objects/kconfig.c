// Externs of the kernel's configuration: every type a value may have, and externs that may be absent.
#include "common.h"

#define KCONFIG __attribute__((section(".kconfig")))
#define WEAK __attribute__((weak))

enum libbpf_tristate { TRI_NO, TRI_YES, TRI_MODULE };

extern u32 LINUX_KERNEL_VERSION KCONFIG;
extern u64 CONFIG_HZ KCONFIG;
extern _Bool CONFIG_BPF_SYSCALL KCONFIG;
extern enum libbpf_tristate CONFIG_BPF_JIT KCONFIG;
extern const char CONFIG_DEFAULT_HOSTNAME[8] KCONFIG;
extern char CONFIG_NET KCONFIG;
extern s32 CONFIG_NO_SUCH_THING KCONFIG WEAK;
extern _Bool LINUX_HAS_BPF_COOKIE KCONFIG WEAK;
extern u16 LINUX_NO_SUCH_THING KCONFIG WEAK;

SEC("xdp") int version(struct xdp_md *ctx)
{
	return LINUX_KERNEL_VERSION >> 16 >= 4 ? 2 : 1;
}

SEC("xdp") int options(struct xdp_md *ctx)
{
	u64 sum = CONFIG_HZ + CONFIG_BPF_SYSCALL + CONFIG_BPF_JIT + CONFIG_NET;
	for (int i = 0; i < 8; i++)
		sum += CONFIG_DEFAULT_HOSTNAME[i];
	return sum;
}

SEC("xdp") int absent(struct xdp_md *ctx)
{
	return CONFIG_NO_SUCH_THING + LINUX_HAS_BPF_COOKIE + LINUX_NO_SUCH_THING;
}

char licence[] SEC("license") = "GPL";
