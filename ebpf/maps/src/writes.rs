//! Who hears of the control side's writes before they happen.
//!
//! Compiled code may have a map's contents in it, as long as nobody changes them. Whoever made such code sets a
//! [`WriteHook`] on the maps concerned: it takes the code out of use before the first write, and learns when a
//! write is over. Maps without a hook pay one load for each write of the control side; programs and readers pay
//! nothing.

use std::sync::{Arc, OnceLock};

use squalus_isa::Errno;

use crate::Map;

/// Hears of the control side's writes to a map.
///
/// Writes may overlap, on several threads, and one may be made of several: then each has its `begin` and `end`.
/// Neither is called under a lock of the map, so that both may wait for workers.
pub trait WriteHook: Send + Sync {
    /// A write is about to begin; it waits for this to return.
    fn begin(&self);
    /// A write is over, whether it changed anything or not.
    fn end(&self);
}

/// The hook of a map, if it has one.
pub(crate) type HookCell = OnceLock<Arc<dyn WriteHook>>;

/// A write of the control side that is going on.
pub(crate) struct Write<'m>(Option<&'m dyn WriteHook>);

impl Drop for Write<'_> {
    fn drop(&mut self) {
        if let Some(hook) = self.0 {
            hook.end();
        }
    }
}

impl Map {
    /// From now on `hook` hears of all writes of the control side. Returns whether it does: a map has one hook,
    /// for good.
    pub fn set_write_hook(&self, hook: Arc<dyn WriteHook>) -> bool {
        self.hook.set(hook).is_ok()
    }

    /// Begins a write of the control side, if it may write.
    pub(crate) fn begin_write(&self) -> Result<Write<'_>, Errno> {
        self.check_write()?;
        let hook = self.hook.get().map(|hook| &**hook);
        if let Some(hook) = hook {
            hook.begin();
        }
        Ok(Write(hook))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use squalus_isa::{MapDef, MapType, UpdateFlags};

    use super::*;
    use crate::MapEnv;

    #[derive(Default)]
    struct Count {
        begun: AtomicU32,
        ended: AtomicU32,
    }

    impl WriteHook for Count {
        fn begin(&self) {
            self.begun.fetch_add(1, SeqCst);
        }

        fn end(&self) {
            self.ended.fetch_add(1, SeqCst);
        }
    }

    impl Count {
        /// Whether `write` told of itself and of its end.
        fn hears<T>(&self, write: impl FnOnce() -> T) -> bool {
            let before = (self.begun.load(SeqCst), self.ended.load(SeqCst));
            let _ = write();
            let after = (self.begun.load(SeqCst), self.ended.load(SeqCst));
            assert_eq!(after.0 - before.0, after.1 - before.1);
            after != before
        }
    }

    fn def(kind: MapType) -> MapDef {
        MapDef::new("m", kind, (4, 4), 4)
    }

    fn hooked(def: &MapDef) -> (Arc<Map>, Arc<Count>) {
        let map = Map::new(def, &MapEnv::new(1)).unwrap();
        let count = Arc::new(Count::default());
        let hook: Arc<dyn WriteHook> = Arc::<Count>::clone(&count);
        assert!(map.set_write_hook(Arc::clone(&hook)));
        assert!(!map.set_write_hook(hook));
        (map, count)
    }

    #[test]
    fn every_write_of_the_control_side_is_heard_of_and_no_read() {
        const ANY: UpdateFlags = UpdateFlags::ANY;
        let (map, count) = hooked(&def(MapType::Hash));
        let (key, value) = ([1, 0, 0, 0], [2; 4]);
        assert!(count.hears(|| map.sys_update(&key, &value, ANY).unwrap()));
        assert!(count.hears(|| map.sys_delete(&key).unwrap()));
        assert!(count.hears(|| map.sys_update_batch(&key, &value, ANY).unwrap()));
        assert!(count.hears(|| map.sys_lookup_and_delete(&key, ANY).unwrap()));
        assert!(count.hears(|| map.sys_delete_batch(&key, ANY).unwrap_err()));
        assert!(count.hears(|| {
            map.sys_update(&key, &value, UpdateFlags::EXIST)
                .unwrap_err()
        }));
        assert!(count.hears(|| map.sys_lookup_and_delete_batch(None, 4, ANY).unwrap()));
        assert!(!count.hears(|| map.sys_lookup(&key).unwrap()));
        assert!(!count.hears(|| map.sys_next_key(None).unwrap()));
        assert!(!count.hears(|| map.sys_lookup_batch(None, 4, ANY).unwrap()));
    }

    #[test]
    fn references_are_written_too() {
        let (map, count) = hooked(&def(MapType::ProgArray));
        assert!(count.hears(|| map.set_program(1, Some(1)).unwrap()));
        let outer = MapDef {
            inner: Some(Box::new(def(MapType::Hash))),
            ..def(MapType::ArrayOfMaps)
        };
        let (map, count) = hooked(&outer);
        let inner = Map::new(&def(MapType::Hash), &MapEnv::new(1)).unwrap();
        assert!(count.hears(|| map.set_inner(&[0; 4], inner).unwrap()));
        assert!(count.hears(|| map.sys_delete(&[0; 4]).unwrap()));
        assert!(!count.hears(|| map.get_inner(&[0; 4]).unwrap()));
    }

    #[test]
    fn a_refused_write_does_not_begin() {
        let (map, count) = hooked(&def(MapType::Array));
        map.freeze();
        assert!(!count.hears(|| map.sys_update(&[0; 4], &[0; 4], UpdateFlags::ANY)));
    }
}
