//! eBPF maps in userspace with the kernel's semantics.
