//! Filling a ring.

use crate::hash::murmur3_x64_64;

/// How weights shape the ring. Both take turns in the order of the reals' hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HashFunction {
    /// In the first round a real claims as many slots as its weight, from the second round on one.
    ///
    /// With weights whose sum is small against the ring they hardly matter. The default of katran's
    /// library.
    MaglevV1,
    /// A real claims a slot in the share of rounds that its weight has of the largest weight, so slots
    /// are proportional to weights. What `katran_server_grpc` uses.
    MaglevV2,
}

/// One real as the ring sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// What the real's slots will hold: its index in the `reals` map.
    pub num: u32,
    /// Its weight; 0 keeps it out of the ring.
    pub weight: u32,
    /// [`real_hash`](crate::real_hash) of its address.
    pub hash: u64,
}

/// Number of slots of a ring: a prime, so that every step walks over all slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSize(u32);

impl RingSize {
    /// katran's default.
    pub const DEFAULT: RingSize = RingSize(65_537);

    /// Checks that `slots` is a prime.
    ///
    /// # Errors
    /// If it is not (some reals' walks would miss slots, and filling might never end), or above 65537.
    pub fn new(slots: u32) -> Result<Self, RingError> {
        if slots > Self::MAX {
            return Err(RingError::TooLarge { slots });
        }
        let divides = |d: u32| slots.is_multiple_of(d);
        let composite = (2..).take_while(|d| d * d <= slots).any(divides);
        if slots < 2 || composite {
            return Err(RingError::NotPrime { slots });
        }
        Ok(RingSize(slots))
    }

    /// Above this the 32-bit arithmetic of the walk wraps so often that walks miss slots.
    const MAX: u32 = 65_537;

    /// The number of slots.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A ring size that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The size has divisors.
    #[error("ring size {slots} is not a prime; use one, such as 65537")]
    NotPrime {
        /// The size asked for.
        slots: u32,
    },
    /// The size is above what 32-bit walks cover.
    #[error("ring size {slots} is above 65537; use a prime up to that")]
    TooLarge {
        /// The size asked for.
        slots: u32,
    },
}

/// The ring of `endpoints`, in any order: for each slot the [`Endpoint::num`] of its real.
///
/// `None` if no endpoint has a weight above 0.
#[must_use]
pub fn ring(function: HashFunction, endpoints: &[Endpoint], size: RingSize) -> Option<Vec<u32>> {
    let mut usable: Vec<Endpoint> = endpoints.iter().copied().filter(|e| e.weight > 0).collect();
    usable.sort_unstable_by_key(|e| (e.hash, e.num));
    match usable.as_slice() {
        [] => None,
        [only] => Some(vec![only.num; size.get() as usize]),
        many => Some(match function {
            HashFunction::MaglevV1 => fill_v1(many, size),
            HashFunction::MaglevV2 => fill_v2(many, size),
        }),
    }
}

/// A real's way over the slots.
struct Walk {
    offset: u32,
    skip: u32,
    next: u32,
}

impl Walk {
    fn new(hash: u64, size: RingSize) -> Self {
        let ring = u64::from(size.get());
        Walk {
            offset: (murmur3_x64_64(hash, 42, 0) % ring) as u32,
            skip: (murmur3_x64_64(hash, 2_718_281_828, 2307) % (ring - 1)) as u32 + 1,
            next: 0,
        }
    }
}

/// A ring being filled.
struct Filling {
    size: u32,
    slots: Vec<u32>,
    taken: Vec<bool>,
    free: u32,
}

impl Filling {
    fn new(size: RingSize) -> Self {
        Filling {
            size: size.get(),
            slots: vec![0; size.get() as usize],
            taken: vec![false; size.get() as usize],
            free: size.get(),
        }
    }

    /// Gives `num` the next free slot of its walk. True once the ring is full.
    fn claim(&mut self, walk: &mut Walk, num: u32) -> bool {
        loop {
            let step = walk.next.wrapping_mul(walk.skip);
            let slot = (walk.offset.wrapping_add(step) % self.size) as usize;
            walk.next = walk.next.wrapping_add(1);
            if !self.taken[slot] {
                self.taken[slot] = true;
                self.slots[slot] = num;
                self.free -= 1;
                return self.free == 0;
            }
        }
    }
}

fn fill_v1(endpoints: &[Endpoint], size: RingSize) -> Vec<u32> {
    let mut walks: Vec<Walk> = endpoints.iter().map(|e| Walk::new(e.hash, size)).collect();
    let mut filling = Filling::new(size);
    let mut first_round = true;
    loop {
        for (endpoint, walk) in endpoints.iter().zip(&mut walks) {
            let turns = if first_round { endpoint.weight } else { 1 };
            for _ in 0..turns {
                if filling.claim(walk, endpoint.num) {
                    return filling.slots;
                }
            }
        }
        first_round = false;
    }
}

fn fill_v2(endpoints: &[Endpoint], size: RingSize) -> Vec<u32> {
    let largest = endpoints.iter().map(|e| e.weight).max().unwrap_or(0);
    let mut walks: Vec<Walk> = endpoints.iter().map(|e| Walk::new(e.hash, size)).collect();
    let mut credit = vec![0u32; endpoints.len()];
    let mut filling = Filling::new(size);
    loop {
        for ((endpoint, walk), credit) in endpoints.iter().zip(&mut walks).zip(&mut credit) {
            *credit = credit.wrapping_add(endpoint.weight);
            if *credit >= largest {
                *credit -= largest;
                if filling.claim(walk, endpoint.num) {
                    return filling.slots;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::real_hash;

    fn endpoint(num: u32, weight: u32) -> Endpoint {
        let address = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | num));
        Endpoint {
            num,
            weight,
            hash: real_hash(address),
        }
    }

    fn shares(ring: &[u32], num: u32) -> usize {
        ring.iter().filter(|&&n| n == num).count()
    }

    #[test]
    fn ring_sizes() {
        assert_eq!(RingSize::new(65_537), Ok(RingSize::DEFAULT));
        assert_eq!(RingSize::new(2).map(RingSize::get), Ok(2));
        for slots in [0, 1, 4, 65_536, 65_535] {
            assert_eq!(RingSize::new(slots), Err(RingError::NotPrime { slots }));
        }
        assert_eq!(
            RingSize::new(65_539),
            Err(RingError::TooLarge { slots: 65_539 })
        );
    }

    #[test]
    fn no_usable_endpoint_no_ring() {
        for function in [HashFunction::MaglevV1, HashFunction::MaglevV2] {
            assert_eq!(ring(function, &[], RingSize::DEFAULT), None);
            assert_eq!(ring(function, &[endpoint(1, 0)], RingSize::DEFAULT), None);
        }
    }

    #[test]
    fn one_usable_endpoint_takes_all() {
        for function in [HashFunction::MaglevV1, HashFunction::MaglevV2] {
            let ring = ring(
                function,
                &[endpoint(3, 7), endpoint(4, 0)],
                RingSize::DEFAULT,
            );
            assert_eq!(ring, Some(vec![3; 65_537]));
        }
    }

    /// Worked out by hand from the rules for a ring of five slots: both walks are given, not hashed.
    #[test]
    fn turns_by_weight() {
        let size = RingSize::new(5).unwrap();
        let walk = |offset, skip| Walk {
            offset,
            skip,
            next: 0,
        };
        let (mut a, mut b) = (walk(0, 1), walk(0, 2));
        let mut filling = Filling::new(size);
        assert!(!filling.claim(&mut a, 1)); // slot 0
        assert!(!filling.claim(&mut b, 2)); // 0 is taken: slot 2
        assert!(!filling.claim(&mut a, 1)); // slot 1
        assert!(!filling.claim(&mut b, 2)); // slot 4
        assert!(filling.claim(&mut a, 1)); // 2 is taken: slot 3
        assert_eq!(filling.slots, [1, 1, 2, 1, 2]);
    }

    #[test]
    fn v2_shares_follow_weights_and_v1_shares_do_not() {
        let endpoints = [endpoint(1, 1), endpoint(2, 3)];
        let v1 = ring(HashFunction::MaglevV1, &endpoints, RingSize::DEFAULT).unwrap();
        let v2 = ring(HashFunction::MaglevV2, &endpoints, RingSize::DEFAULT).unwrap();
        assert!(shares(&v1, 1).abs_diff(32_768) <= 2, "{}", shares(&v1, 1));
        assert!(
            shares(&v2, 1).abs_diff(65_537 / 4) <= 1,
            "{}",
            shares(&v2, 1)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_slot_holds_a_usable_endpoint(
            weights in proptest::collection::vec(0u32..9, 1..40),
            v2 in any::<bool>(),
            size in prop::sample::select(vec![2u32, 13, 251, 65_537]),
        ) {
            let endpoints: Vec<_> = (1..).zip(&weights).map(|(n, &w)| endpoint(n, w)).collect();
            let function = if v2 { HashFunction::MaglevV2 } else { HashFunction::MaglevV1 };
            let size = RingSize::new(size).unwrap();
            match ring(function, &endpoints, size) {
                None => prop_assert!(weights.iter().all(|&w| w == 0)),
                Some(ring) => {
                    prop_assert_eq!(ring.len(), size.get() as usize);
                    prop_assert!(ring.iter().all(|&n| weights[n as usize - 1] > 0));
                }
            }
        }

        #[test]
        fn order_of_endpoints_is_irrelevant(
            weights in proptest::collection::vec(0u32..9, 2..20),
            v2 in any::<bool>(),
        ) {
            let endpoints: Vec<_> = (1..).zip(&weights).map(|(n, &w)| endpoint(n, w)).collect();
            let reversed: Vec<_> = endpoints.iter().rev().copied().collect();
            let function = if v2 { HashFunction::MaglevV2 } else { HashFunction::MaglevV1 };
            let size = RingSize::new(1009).unwrap();
            prop_assert_eq!(ring(function, &endpoints, size), ring(function, &reversed, size));
        }

        #[test]
        fn removing_a_real_moves_few_other_slots(count in 10u32..60, gone in 1u32..10) {
            let before: Vec<_> = (1..=count).map(|n| endpoint(n, 1)).collect();
            let after: Vec<_> = before.iter().copied().filter(|e| e.num != gone).collect();
            let of = |e: &[Endpoint]| ring(HashFunction::MaglevV2, e, RingSize::DEFAULT).unwrap();
            let (before, after) = (of(&before), of(&after));
            let moved = before.iter().zip(&after).filter(|(b, a)| **b != gone && a != b).count();
            prop_assert!(moved < 65_537 / 4, "{} slots of other reals moved", moved);
        }
    }
}
