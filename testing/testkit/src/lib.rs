//! Packets, network namespaces and hosts for tests and the demo.
