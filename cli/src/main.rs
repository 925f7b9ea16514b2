//! The squalus command.
fn main() {}
