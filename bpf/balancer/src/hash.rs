//! The flow hash: Bob Jenkins' lookup3, as Linux knows it under the name jhash.

use squalus_abi::{FlowKey, consts};

/// Start value of the three words of state.
const INIT: u32 = 0xdead_beef;

/// Hash of a flow's client address and ports. The VIP's address and the protocol are not part of it.
#[inline(always)]
pub fn flow<const V6: bool>(flow: &FlowKey) -> u32 {
    let ports = u32::from(flow.src_port.raw()) | u32::from(flow.dst_port.raw()) << 16;
    let address = if V6 {
        four_words(flow.src.words(), consts::INIT_JHASH_SEED_V6)
    } else {
        flow.src.words()[0]
    };
    two_words(address, ports, consts::INIT_JHASH_SEED)
}

#[inline(always)]
fn two_words(a: u32, b: u32, seed: u32) -> u32 {
    let init = seed.wrapping_add(INIT).wrapping_add(2 << 2);
    finish(a.wrapping_add(init), b.wrapping_add(init), init)
}

#[inline(always)]
fn four_words(words: &[u32; 4], seed: u32) -> u32 {
    let init = INIT.wrapping_add(16).wrapping_add(seed);
    let (a, b, c) = mix(
        init.wrapping_add(words[0]),
        init.wrapping_add(words[1]),
        init.wrapping_add(words[2]),
    );
    finish(a.wrapping_add(words[3]), b, c)
}

#[inline(always)]
fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    a = a.wrapping_sub(c) ^ c.rotate_left(4);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(6);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(8);
    b = b.wrapping_add(a);
    a = a.wrapping_sub(c) ^ c.rotate_left(16);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(19);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(4);
    b = b.wrapping_add(a);
    (a, b, c)
}

#[inline(always)]
fn finish(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}
