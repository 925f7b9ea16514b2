//! The userspace eBPF engine: load, link, analyse, compile, run.
