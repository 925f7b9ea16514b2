// The types that core.c meets: reordered, resized, renumbered. Only its BTF matters.
#include "common.h"

struct inner {
	u64 pad;
	u64 b;
	u32 a;
};
struct outer {
	u64 before;
	u32 first;
	struct {
		union {
			struct {
				u8 skip[3];
				u8 tail;
			};
			struct {
				u32 right_pad;
				u16 right;
				u32 left;
			};
		};
	};
	struct inner in[4];
	u64 filler : 20, bits : 5, more : 9;
	s32 negative : 7;
	u64 narrow;
	struct inner *next;
	u32 fresh;
	u32 flexible[];
};
enum color { ORANGE = 10, BLUE = 20, GREEN = 30 };
typedef struct inner inner_t;

typedef int (*callback_t)(struct outer *, u32);
struct signs {
	u64 first;
	s64 number;
	u32 plain;
};
struct choice {
	u32 x;
};

callback_t callback;
struct signs signs;
struct choice choice;
struct outer target;
struct inner other;
enum color paint;
inner_t alias;

SEC("xdp") int none(struct xdp_md *ctx)
{
	return target.before + other.a + paint + alias.a;
}
