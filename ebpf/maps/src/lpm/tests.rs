use super::*;
use squalus_isa::{MapFlags, MapType};

fn trie() -> Trie {
    trie_of(100)
}

fn trie_of(max_entries: u32) -> Trie {
    let def = MapDef {
        flags: MapFlags::NO_PREALLOC,
        ..MapDef::new("t", MapType::LpmTrie, (8, 4), max_entries)
    };
    Trie::new(&def, 0).unwrap()
}

fn key(len: u32, data: [u8; 4]) -> [u8; 8] {
    let mut key = [0; 8];
    key[..4].copy_from_slice(&len.to_ne_bytes());
    key[4..].copy_from_slice(&data);
    key
}

fn insert(trie: &Trie, len: u32, data: [u8; 4], value: u32) {
    let value = value.to_ne_bytes();
    // SAFETY: key and value have their sizes.
    unsafe {
        trie.update(key(len, data).as_ptr(), value.as_ptr(), 0)
            .unwrap()
    }
}

fn get(trie: &Trie, len: u32, data: [u8; 4]) -> Option<u32> {
    let value = trie.sys_lookup(&key(len, data))?;
    Some(u32::from_ne_bytes(value.try_into().unwrap()))
}

#[test]
fn the_longest_match_wins() {
    let trie = trie();
    insert(&trie, 0, [0; 4], 1);
    insert(&trie, 8, [10, 0, 0, 0], 2);
    insert(&trie, 24, [10, 1, 2, 0], 3);
    insert(&trie, 32, [10, 1, 2, 3], 4);
    assert_eq!(get(&trie, 32, [11, 0, 0, 0]), Some(1));
    assert_eq!(get(&trie, 32, [10, 9, 0, 0]), Some(2));
    assert_eq!(get(&trie, 32, [10, 1, 2, 4]), Some(3));
    assert_eq!(get(&trie, 32, [10, 1, 2, 3]), Some(4));
    assert_eq!(get(&trie, 24, [10, 1, 2, 3]), Some(3));
    assert_eq!(get(&trie, 16, [10, 1, 2, 3]), Some(2));
    assert_eq!(get(&trie, 33, [10, 1, 2, 3]), None);
}

/// Against a list of all prefixes, with tables smaller and larger than what is in use.
#[test]
fn shortcuts_lead_where_the_way_does() {
    for max_entries in [1, 2, 40, 5000] {
        let trie = trie_of(max_entries);
        let mut all = std::collections::BTreeMap::new();
        let mut state = 1_u64;
        let mut random = |below: u32| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as u32 % below
        };
        for round in 0..3000 {
            let len = random(33);
            // Few bits differ, so that prefixes contain each other.
            let address = (random(64) << 26 | random(4) << 14 | random(4)) & mask(len);
            if random(3) != 0 && all.len() < max_entries as usize {
                insert(&trie, len, address.to_be_bytes(), round);
                all.insert((len, address), round);
            } else {
                let key = key(len, address.to_be_bytes());
                // SAFETY: the key has its size.
                let deleted = unsafe { trie.delete(key.as_ptr()) };
                assert_eq!(deleted.is_ok(), all.remove(&(len, address)).is_some());
            }
            for _ in 0..4 {
                let (len, address) = (
                    32 - random(2) * random(33),
                    random(64) << 26 | random(4) << 14,
                );
                let holds = |(prefix, _): &(&(u32, u32), &u32)| {
                    prefix.0 <= len && address & mask(prefix.0) == prefix.1
                };
                let want = all.iter().filter(holds).max_by_key(|(prefix, _)| prefix.0);
                assert_eq!(
                    get(&trie, len, address.to_be_bytes()),
                    want.map(|(_, value)| *value)
                );
            }
        }
    }
}

fn mask(len: u32) -> u32 {
    u32::MAX.checked_shl(32 - len).unwrap_or(0)
}

#[test]
fn all_nodes_come_back() {
    let trie = trie();
    for round in 0..50 {
        for at in 0..100_u8 {
            insert(
                &trie,
                32 - u32::from(at % 5),
                [at, at.wrapping_mul(37), round, 0],
                1,
            );
        }
        assert_eq!(trie.len(), 100);
        while let Some(key) = trie.sys_next_key(None) {
            // SAFETY: the key has its size.
            unsafe { trie.delete(key.as_ptr()).unwrap() }
        }
        assert_eq!((trie.len(), trie.root.load(Ordering::Relaxed)), (0, 0));
    }
}
