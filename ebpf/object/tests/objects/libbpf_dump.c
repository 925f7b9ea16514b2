// Prints what libbpf makes of an object just before it loads it: maps, then each program's instructions after
// relocation. Usage: libbpf_dump OBJECT [OBJECT_WITH_TARGET_BTF]. Needs root, since libbpf creates the maps first.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <stdio.h>
#include <string.h>

static struct bpf_object *object;
static const char *wanted;

static const char *map_name(const struct bpf_map *map)
{
	const char *name = bpf_map__name(map), *dot = strchr(name, '.');
	return bpf_map__is_internal(map) && dot ? dot : name;
}

static const char *map_by_fd(int fd)
{
	struct bpf_map *map;
	bpf_object__for_each_map(map, object)
		if (bpf_map__fd(map) == fd)
			return map_name(map);
	return "?";
}

static int dump_program(struct bpf_program *prog, struct bpf_prog_load_opts *opts, long cookie)
{
	const struct bpf_insn *insn = bpf_program__insns(prog);
	size_t count = bpf_program__insn_cnt(prog);
	if (strcmp(bpf_program__name(prog), wanted))
		return 0;
	printf("program %s %zu\n", wanted, count);
	for (size_t i = 0; i < count; i++) {
		printf("%02x %x %x %d ", insn[i].code, insn[i].dst_reg, insn[i].src_reg, insn[i].off);
		if (insn[i].code == 0x18 && (insn[i].src_reg == 1 || insn[i].src_reg == 2))
			printf("%s\n", map_by_fd(insn[i].imm));
		else
			printf("%d\n", insn[i].imm);
	}
	return 0;
}

static void dump_map(const struct bpf_map *map)
{
	unsigned flags = bpf_map__map_flags(map) & ~(bpf_map__is_internal(map) ? 1u << 10 : 0);
	printf("map %s %u %u %u %u %x\n", map_name(map), bpf_map__type(map), bpf_map__key_size(map),
	       bpf_map__value_size(map), bpf_map__max_entries(map), flags);
	struct bpf_map *inner = bpf_map__inner_map((struct bpf_map *)map);
	if (inner)
		printf("inner %u %u %u %u %x\n", bpf_map__type(inner), bpf_map__key_size(inner),
		       bpf_map__value_size(inner), bpf_map__max_entries(inner), bpf_map__map_flags(inner));
}

static int quiet(enum libbpf_print_level level, const char *format, va_list args)
{
	return level == LIBBPF_WARN ? vfprintf(stderr, format, args) : 0;
}

int main(int argc, char **argv)
{
	LIBBPF_OPTS(bpf_object_open_opts, open_opts, .btf_custom_path = argc > 2 ? argv[2] : NULL);
	LIBBPF_OPTS(libbpf_prog_handler_opts, handler, .prog_prepare_load_fn = dump_program);
	struct bpf_program *prog;
	struct bpf_map *map;
	char names[256][128];
	int count = 0;

	libbpf_set_print(quiet);
	libbpf_register_prog_handler("xdp+", BPF_PROG_TYPE_XDP, BPF_XDP, &handler);
	libbpf_register_prog_handler("tc+", BPF_PROG_TYPE_SCHED_CLS, 0, &handler);
	object = bpf_object__open_file(argv[1], &open_opts);
	if (!object)
		return 1;
	bpf_object__for_each_map(map, object)
		dump_map(map);
	bpf_object__for_each_program(prog, object)
		if (count < 256)
			snprintf(names[count++], sizeof(names[0]), "%s", bpf_program__name(prog));
	for (int i = 0; i < count; i++) {
		bpf_object__close(object);
		wanted = names[i];
		object = bpf_object__open_file(argv[1], &open_opts);
		bpf_object__for_each_map(map, object)
			bpf_map__set_pin_path(map, NULL);
		bpf_object__for_each_program(prog, object)
			bpf_program__set_autoload(prog, !strcmp(bpf_program__name(prog), wanted));
		if (bpf_object__load(object))
			fprintf(stderr, "%s: not accepted by the kernel\n", wanted);
	}
	return 0;
}
