// CO-RE relocations of every kind, against the types of core_target.c. Each result goes to a variable.
#include "common.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct inner {
	u32 a;
	u64 b;
};
struct outer {
	u32 first;
	struct inner in[2];
	union {
		u32 left;
		u16 right;
	};
	u32 bits : 5, more : 9;
	s32 negative : 7;
	u32 narrow;
	struct inner *next;
	u32 gone;
	u32 flexible[];
};
struct outer___flavored {
	u32 first;
	u32 fresh;
};
struct lost {
	u32 x;
};
#pragma clang attribute pop

// Looked at as wholes, and so without preserve_access_index.
struct inner___less {
	u64 b;
};
struct inner___wrong {
	u32 b;
};
struct inner___pointing {
	struct inner *a;
} __attribute__((preserve_access_index));
struct signs___small {
	s32 number;
	u16 plain;
} __attribute__((preserve_access_index));
typedef int (*callback_t)(struct outer *, u32);
typedef int (*callback_t___long)(struct outer *, u64);
typedef int (*callback_t___more)(struct outer *, u32, u32);

enum color { RED = 1, GREEN = 2, BLUE = 3 };
union choice {
	u32 x;
};
enum color___flavored { VIOLET = 9 };
typedef struct inner inner_t;

enum { OFFSET, SIZE, EXISTS, SIGNED, LSHIFT, RSHIFT };
enum { TYPE_EXISTS, TYPE_MATCHES = 2 };
enum { ID_LOCAL, ID_TARGET };
#define FIELD(record, field, ask) __builtin_preserve_field_info(((typeof(record) *)0)->field, ask)
#define TYPE_INFO(type, ask) __builtin_preserve_type_info(*(type *)0, ask)
#define ENUM_INFO(type, name, ask) __builtin_preserve_enum_value(*(type *)name, ask)

u64 results[40];
struct outer *object;

SEC("xdp") int ask(struct xdp_md *ctx)
{
	u64 *r = results;
	r[0] = FIELD(struct outer, first, OFFSET);
	r[1] = FIELD(struct outer, in[1].b, OFFSET);
	r[2] = FIELD(struct outer, right, OFFSET);
	r[3] = FIELD(struct outer, bits, OFFSET);
	r[4] = FIELD(struct outer, bits, SIZE);
	r[5] = FIELD(struct outer, more, LSHIFT);
	r[6] = FIELD(struct outer, more, RSHIFT);
	r[7] = FIELD(struct outer, negative, SIGNED);
	r[8] = FIELD(struct outer, narrow, SIZE);
	r[9] = FIELD(struct outer, gone, EXISTS);
	r[10] = FIELD(struct outer, next, EXISTS);
	r[11] = FIELD(struct outer___flavored, fresh, OFFSET);
	r[12] = FIELD(struct outer, flexible[3], OFFSET);
	r[13] = TYPE_INFO(struct inner, TYPE_EXISTS);
	r[14] = TYPE_INFO(struct lost, TYPE_EXISTS);
	r[15] = TYPE_INFO(struct outer, 1); // size
	r[16] = TYPE_INFO(struct inner, TYPE_MATCHES);
	r[17] = TYPE_INFO(struct outer, TYPE_MATCHES);
	r[18] = TYPE_INFO(inner_t, TYPE_EXISTS);
	r[19] = ENUM_INFO(enum color, GREEN, 1);
	r[20] = ENUM_INFO(enum color, BLUE, 0);
	r[21] = ENUM_INFO(enum color___flavored, VIOLET, 0);
	r[22] = __builtin_btf_type_id(*(struct inner *)0, ID_TARGET);
	r[23] = __builtin_btf_type_id(*(struct inner *)0, ID_LOCAL);
	r[24] = FIELD(struct outer, narrow, SIGNED);
	return 2;
}

SEC("xdp") int follow(struct xdp_md *ctx)
{
	struct outer *o = object;
	if (!o)
		return 1;
	results[0] = o->in[1].a;
	results[1] = o->narrow;
	results[2] = o->next->b;
	o->left = 4;
	return 2;
}

SEC("xdp") int guarded(struct xdp_md *ctx)
{
	struct outer *o = object;
	if (o && FIELD(struct outer, gone, EXISTS))
		results[0] = o->gone;
	return 2;
}

SEC("xdp") int compare(struct xdp_md *ctx)
{
	u64 *r = results;
	r[0] = TYPE_INFO(struct inner___less, TYPE_MATCHES);
	r[1] = TYPE_INFO(struct inner___wrong, TYPE_MATCHES);
	r[2] = TYPE_INFO(struct inner___wrong, TYPE_EXISTS);
	r[3] = FIELD(struct inner___pointing, a, EXISTS);
	r[4] = TYPE_INFO(enum color, TYPE_MATCHES);
	r[5] = TYPE_INFO(enum color___flavored, TYPE_MATCHES);
	r[6] = TYPE_INFO(callback_t, TYPE_EXISTS);
	r[7] = TYPE_INFO(callback_t___long, TYPE_EXISTS);
	r[8] = TYPE_INFO(callback_t___more, TYPE_EXISTS);
	r[9] = TYPE_INFO(callback_t, TYPE_MATCHES);
	r[10] = TYPE_INFO(callback_t___long, TYPE_MATCHES);
	r[11] = TYPE_INFO(union choice, TYPE_EXISTS);
	r[12] = TYPE_INFO(struct lost, 1); // size
	r[13] = __builtin_btf_type_id(*(struct lost *)0, ID_TARGET);
	r[14] = FIELD(struct outer, bits, LSHIFT);
	r[15] = FIELD(struct outer, bits, RSHIFT);
	return 2;
}

SEC("xdp") int absent(struct xdp_md *ctx)
{
	struct signs___small *s = (void *)object;
	results[0] = s->plain;
	results[1] = s->number;
	results[2] = ENUM_INFO(enum color, RED, 1);
	results[3] = FIELD(struct inner___pointing, a, OFFSET);
	results[4] = ((struct lost *)s)->x;
	return 2;
}

char licence[] SEC("license") = "GPL";
