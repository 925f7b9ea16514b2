//! Maglev consistent-hashing rings, bit-identical to katran's.
//!
//! A ring maps a slot (a packet's hash modulo the ring size) to a real. Every real walks its own
//! permutation of the slots, given by an offset and a step derived from a hash of its address, and the
//! reals take turns claiming the next free slot of their walk. Adding or removing one real therefore
//! moves few slots that did not belong to it.
//!
//! Two balancers that announce the same VIP must build the same ring, or a flow that moves from one to
//! the other changes its real. That is why nothing here is a matter of taste: the address hash
//! ([`real_hash`]) is the one of folly's `IPAddress`, with the sign extension of its FNV variant; the walk
//! uses 32-bit arithmetic that wraps; and both ways to honour weights are kept ([`HashFunction`]).
#![forbid(unsafe_code)]

mod hash;
mod ring;

pub use hash::{murmur3_x64_64, real_hash};
pub use ring::{Endpoint, HashFunction, RingError, RingSize, ring};
