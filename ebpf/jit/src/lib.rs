//! Facts to native code through Cranelift.
