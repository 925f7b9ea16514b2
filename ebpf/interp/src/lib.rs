//! The reference engine: slow, every access checked.
