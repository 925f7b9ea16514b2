/* Frames that say what a program is to do: its arguments, and room for what comes of it. */
struct command {
	u8 ethernet[14];
	u8 op, map;
	u8 key[24];
	u8 value[16];
	u64 flags;
	long result;
	u32 a, b;
};

/* Helpers take keys and values from the stack, as compilers put them there. */
struct work {
	u8 key[24];
	u8 value[16];
};

static __attribute__((always_inline)) void copy(void *to, const void *from, u32 len)
{
	for (u32 i = 0; i < len; i++)
		((volatile u8 *)to)[i] = ((const u8 *)from)[i];
}

static __attribute__((always_inline)) struct command *command(struct xdp_md *ctx)
{
	struct command *c = (void *)(long)ctx->data;
	return (void *)(c + 1) > (void *)(long)ctx->data_end ? 0 : c;
}
