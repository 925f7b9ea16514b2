//! Kernel and user dataplanes under one trait.
