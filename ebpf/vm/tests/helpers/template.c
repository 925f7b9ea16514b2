/* An object with one program, whose code and maps the tests replace.
 * clang-16 -O2 -target bpf -ffile-prefix-map=$PWD=. -c template.c -o template.o
 */
__attribute__((section("xdp"), used)) int entry(void *ctx)
{
	return 2;
}

char _license[] __attribute__((section("license"), used)) = "GPL";
