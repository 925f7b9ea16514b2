//! The kernel as an engine: load, maps as bytes, test runs, attach.
