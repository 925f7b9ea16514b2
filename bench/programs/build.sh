#!/bin/sh
# Builds the BPF objects of the micro programs (Debian's clang 19); run after a change.
cd "$(dirname "$0")" || exit 1
for source in *.c; do
	${CLANG:-clang-19} -O2 -g -target bpf -mcpu=v3 -Wall -Wextra -Wno-unused -fno-strict-aliasing \
		-ffile-prefix-map="$PWD=." -c "$PWD/$source" -o "objects/${source%.c}.o" || exit 1
done
