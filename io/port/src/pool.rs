//! Frames and the pool they come from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{PortError, Umem};

/// Room in front of every received packet, in bytes: what the kernel guarantees XDP programs
/// (`XDP_PACKET_HEADROOM`), so that a program can grow the head as far in userspace as in the kernel.
pub const DEFAULT_HEADROOM: u16 = 256;

/// Size of the chunk that one frame lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FrameSize {
    /// 2048 bytes: enough for an MTU of 1500 with headroom and encapsulation.
    #[default]
    Half,
    /// 4096 bytes, one page: for MTUs up to 3800.
    Page,
    /// 16384 bytes, for MTUs up to 16000. AF_XDP, whose chunks are at most a page, copies frames into such.
    Jumbo,
}

impl FrameSize {
    /// The smaller size that fits an interface's MTU with the usual headroom.
    #[must_use]
    pub fn for_mtu(mtu: u32) -> FrameSize {
        let frame = mtu as usize + ETHERNET_AND_VLAN + usize::from(DEFAULT_HEADROOM);
        let sizes = [FrameSize::Half, FrameSize::Page];
        let fits = sizes.into_iter().find(|size| frame <= size.bytes());
        fits.unwrap_or(FrameSize::Jumbo)
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            FrameSize::Half => 2048,
            FrameSize::Page => 4096,
            FrameSize::Jumbo => 16384,
        }
    }
}

/// Ethernet header and one VLAN tag, which the MTU does not count.
const ETHERNET_AND_VLAN: usize = 18;

/// How large a pool is to be.
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// Number of frames.
    pub frames: u32,
    /// Size of each one's chunk.
    pub frame_size: FrameSize,
    /// Room in front of a packet, in bytes.
    pub headroom: u16,
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig {
            frames: 4096,
            frame_size: FrameSize::default(),
            headroom: DEFAULT_HEADROOM,
        }
    }
}

/// A packet in a pool: a chunk, and the range of it that the packet fills.
///
/// Only the pool that made it can use it. A frame is not freed by going out of scope: give it to
/// [`Pool::free`] or to a port.
#[must_use = "a frame that is neither freed nor sent is lost to its pool"]
#[derive(Debug)]
pub struct Frame {
    pool: u32,
    chunk: u32,
    start: u16,
    len: u16,
}

impl Frame {
    /// Index of the chunk, below [`Pool::capacity`]; a key for data kept beside a frame.
    #[must_use]
    pub fn chunk(&self) -> usize {
        self.chunk as usize
    }

    /// Offset of the packet's first byte in its chunk.
    #[must_use]
    pub fn start(&self) -> usize {
        self.start.into()
    }

    /// Length of the packet in bytes.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "an empty packet is nothing special"
    )]
    pub fn len(&self) -> usize {
        self.len.into()
    }
}

/// The addresses of a frame.
///
/// `hard_start <= data <= data_end <= hard_end`, all within the frame's chunk. They are valid while the
/// frame is held and its pool lives; to use them is to promise that nobody else touches the chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameBounds {
    /// First byte of the chunk: the packet's head can grow down to here.
    pub hard_start: *mut u8,
    /// First byte of the packet.
    pub data: *mut u8,
    /// Behind the packet's last byte.
    pub data_end: *mut u8,
    /// Behind the chunk's last byte: the tail can grow up to here.
    pub hard_end: *mut u8,
}

/// Whose hands a chunk is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Holder {
    Pool,
    Worker,
    Port,
}

/// The frames of one worker and the memory they live in.
///
/// Not shared between threads: each worker has its own.
#[derive(Debug)]
pub struct Pool {
    memory: Arc<Umem>,
    free: Vec<u32>,
    holders: Box<[Holder]>,
    chunk_size: u32,
    headroom: u16,
    id: u32,
}

/// Tells pools apart, so that a frame is never used with another pool's memory.
static NEXT_POOL: AtomicU32 = AtomicU32::new(0);

impl Pool {
    /// Maps the memory.
    ///
    /// # Errors
    /// [`PortError::Config`] for no frames, or a headroom that leaves no room for packets;
    /// [`PortError::Memory`] if the system has not enough.
    pub fn new(config: &PoolConfig) -> Result<Pool, PortError> {
        let chunk_size = config.frame_size.bytes();
        if config.frames == 0 {
            return Err(PortError::Config("a pool needs at least one frame".into()));
        }
        if usize::from(config.headroom) + 64 > chunk_size {
            return Err(PortError::Config(format!(
                "headroom {} leaves no room for packets in frames of {chunk_size} bytes",
                config.headroom
            )));
        }
        let bytes = config.frames as usize * chunk_size;
        let memory = Umem::map(bytes).map_err(|source| PortError::Memory { bytes, source })?;
        Ok(Pool {
            memory: Arc::new(memory),
            free: (0..config.frames).rev().collect(),
            holders: vec![Holder::Pool; config.frames as usize].into(),
            chunk_size: chunk_size as u32,
            headroom: config.headroom,
            id: NEXT_POOL.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// The memory, for a port that registers it with the kernel.
    #[must_use]
    pub fn memory(&self) -> &Arc<Umem> {
        &self.memory
    }

    /// Number of frames, wherever they are.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.holders.len()
    }

    /// Number of free frames.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Size of a frame's chunk in bytes.
    #[must_use]
    pub fn chunk_size(&self) -> usize {
        self.chunk_size as usize
    }

    /// Room in front of a new frame's packet, in bytes.
    #[must_use]
    pub fn headroom(&self) -> usize {
        self.headroom.into()
    }

    /// The longest packet that fits behind the headroom, in bytes.
    #[must_use]
    pub fn max_packet(&self) -> usize {
        self.chunk_size() - self.headroom()
    }

    /// Takes a free frame: an empty packet behind the headroom.
    pub fn alloc(&mut self) -> Option<Frame> {
        let chunk = self.free.pop()?;
        self.holders[chunk as usize] = Holder::Worker;
        Some(Frame {
            pool: self.id,
            chunk,
            start: self.headroom,
            len: 0,
        })
    }

    /// Takes a free frame and fills it; `None` if there is none or the packet is too long.
    pub fn alloc_from(&mut self, packet: &[u8]) -> Option<Frame> {
        if packet.len() > self.max_packet() {
            return None;
        }
        let mut frame = self.alloc()?;
        frame.len = packet.len() as u16;
        self.data_mut(&mut frame).copy_from_slice(packet);
        Some(frame)
    }

    /// A copy of a frame and of what lies in front of it (a program's metadata), at the same place of a chunk
    /// of its own; `None` if there is no free one.
    ///
    /// # Panics
    /// If the frame is of another pool.
    pub fn duplicate(&mut self, frame: &Frame) -> Option<Frame> {
        let from = self.offset_of(frame) - frame.start();
        let mut copy = self.alloc()?;
        (copy.start, copy.len) = (frame.start, frame.len);
        let to = self.offset_of(&copy) - copy.start();
        let len = frame.start() + frame.len();
        // SAFETY: the two chunks are different, and both are held by the caller.
        let (from, to) = unsafe { (self.memory.slice(from, len), self.memory.slice_mut(to, len)) };
        to.copy_from_slice(from);
        Some(copy)
    }

    /// Gives a frame back.
    pub fn free(&mut self, frame: Frame) {
        if frame.pool == self.id {
            self.holders[frame.chunk()] = Holder::Pool;
            self.free.push(frame.chunk);
        } else {
            debug_assert!(false, "a frame is freed into the pool it came from");
        }
    }

    /// The packet.
    ///
    /// # Panics
    /// If the frame is of another pool.
    #[must_use]
    pub fn data(&self, frame: &Frame) -> &[u8] {
        let offset = self.offset_of(frame);
        // SAFETY: the chunk is held by the owner of `frame`, so no port or kernel writes to it; threads
        // don't share pools, and writers need `&mut self`.
        unsafe { self.memory.slice(offset, frame.len()) }
    }

    /// The packet, writable.
    ///
    /// # Panics
    /// If the frame is of another pool.
    pub fn data_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        let offset = self.offset_of(frame);
        // SAFETY: the chunk is held by the owner of `frame`, so no port or kernel touches it, and
        // `&mut self` excludes every other reference made by this pool.
        unsafe { self.memory.slice_mut(offset, frame.len()) }
    }

    /// The frame's addresses, for a system call that fills it.
    ///
    /// # Panics
    /// If the frame is of another pool.
    pub fn bounds(&mut self, frame: &mut Frame) -> FrameBounds {
        let start = self.offset_of(frame);
        let chunk = start - frame.start();
        FrameBounds {
            hard_start: self.memory.at(chunk),
            data: self.memory.at(start),
            data_end: self.memory.at(start + frame.len()),
            hard_end: self.memory.at(chunk + self.chunk_size()),
        }
    }

    /// The whole chunk of each frame, first to last: for an engine that runs a program on them in place.
    /// Where the packet lies in it, the frame says; where the program moved it, [`Pool::set_range`] is told.
    ///
    /// # Panics
    /// If a frame is of another pool.
    pub fn chunks_mut<'a>(
        &'a mut self,
        frames: &'a [Frame],
    ) -> impl ExactSizeIterator<Item = &'a mut [u8]> {
        frames.iter().map(|frame| {
            let chunk = self.offset_of(frame) - frame.start();
            // SAFETY: no two frames of a pool name the same chunk, so the slices are disjoint; the
            // chunks are held by the owner of `frames`, so neither port nor kernel touches them; the
            // borrows of pool and frames keep it so while a slice lives.
            unsafe { self.memory.slice_mut(chunk, self.chunk_size()) }
        })
    }

    /// Says where in its chunk the packet is now; false, and no change, if that is not inside the chunk.
    #[must_use]
    pub fn set_range(&self, frame: &mut Frame, start: usize, len: usize) -> bool {
        match (u16::try_from(start), u16::try_from(len)) {
            (Ok(start), Ok(len)) if usize::from(start) + usize::from(len) <= self.chunk_size() => {
                frame.start = start;
                frame.len = len;
                true
            }
            _ => false,
        }
    }

    /// Lends a frame to a port's ring; returns the offset of its packet in the pool's memory.
    ///
    /// Until [`Pool::reclaim`] or [`Pool::release`] gets that chunk back, nobody but the port touches it.
    #[must_use = "the offset is what gets the chunk back"]
    pub fn lend(&mut self, frame: Frame) -> u64 {
        let offset = self.offset_of(&frame) as u64;
        self.holders[frame.chunk()] = Holder::Port;
        offset
    }

    /// Lends a free chunk to a port that will fill it; returns the chunk's offset in the pool's memory.
    pub fn lend_empty(&mut self) -> Option<u64> {
        let chunk = self.free.pop()?;
        self.holders[chunk as usize] = Holder::Port;
        Some(u64::from(chunk) * u64::from(self.chunk_size))
    }

    /// Takes a lent chunk back with a packet of `len` bytes at `offset` of the pool's memory.
    ///
    /// `None` if no chunk there is lent, or the packet would leave its chunk.
    pub fn reclaim(&mut self, offset: u64, len: u32) -> Option<Frame> {
        let chunk = self.lent_chunk(offset)?;
        let start = (offset % u64::from(self.chunk_size)) as u32;
        if u64::from(start) + u64::from(len) > u64::from(self.chunk_size) {
            return None;
        }
        self.holders[chunk as usize] = Holder::Worker;
        Some(Frame {
            pool: self.id,
            chunk,
            start: start as u16,
            len: len as u16,
        })
    }

    /// Frees a lent chunk that `offset` lies in; false if it is not lent.
    pub fn release(&mut self, offset: u64) -> bool {
        let Some(chunk) = self.lent_chunk(offset) else {
            return false;
        };
        self.holders[chunk as usize] = Holder::Pool;
        self.free.push(chunk);
        true
    }

    fn lent_chunk(&self, offset: u64) -> Option<u32> {
        let chunk = u32::try_from(offset / u64::from(self.chunk_size)).ok()?;
        (self.holders.get(chunk as usize) == Some(&Holder::Port)).then_some(chunk)
    }

    /// Where the frame's packet is in the pool's memory.
    fn offset_of(&self, frame: &Frame) -> usize {
        assert!(
            frame.pool == self.id,
            "a frame is used with the pool it came from"
        );
        frame.chunk() * self.chunk_size() + frame.start()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn small() -> Pool {
        Pool::new(&PoolConfig {
            frames: 8,
            ..PoolConfig::default()
        })
        .unwrap()
    }

    #[test]
    fn frame_sizes_follow_the_mtu() {
        assert_eq!(FrameSize::for_mtu(1500), FrameSize::Half);
        assert_eq!(FrameSize::for_mtu(1774), FrameSize::Half);
        assert_eq!(FrameSize::for_mtu(1775), FrameSize::Page);
        assert_eq!(FrameSize::for_mtu(3822), FrameSize::Page);
        assert_eq!(FrameSize::for_mtu(9000), FrameSize::Jumbo);
    }

    #[test]
    fn impossible_pools_are_refused() {
        let none = PoolConfig {
            frames: 0,
            ..PoolConfig::default()
        };
        assert!(matches!(Pool::new(&none), Err(PortError::Config(_))));
        let all_headroom = PoolConfig {
            headroom: 2047,
            ..PoolConfig::default()
        };
        assert!(matches!(
            Pool::new(&all_headroom),
            Err(PortError::Config(_))
        ));
    }

    #[test]
    fn a_packet_grows_into_its_headroom() {
        let mut pool = small();
        let mut frame = pool.alloc_from(b"inner").unwrap();
        assert_eq!(frame.start(), 256);
        assert!(pool.set_range(&mut frame, 256 - 20, 25));
        pool.data_mut(&mut frame)[..20].fill(0xee);
        assert_eq!(&pool.data(&frame)[20..], b"inner");

        let bounds = pool.bounds(&mut frame);
        assert_eq!(bounds.data as usize - bounds.hard_start as usize, 236);
        assert_eq!(bounds.data_end as usize - bounds.data as usize, 25);
        assert_eq!(bounds.hard_end as usize - bounds.hard_start as usize, 2048);
        pool.free(frame);
    }

    #[test]
    fn ranges_outside_the_chunk_are_refused() {
        let mut pool = small();
        let mut frame = pool.alloc_from(b"x").unwrap();
        assert!(!pool.set_range(&mut frame, 2000, 49));
        assert!(!pool.set_range(&mut frame, 0, 70_000));
        assert_eq!((frame.start(), frame.len()), (256, 1));
        assert!(pool.set_range(&mut frame, 2000, 48));
        pool.free(frame);
    }

    #[test]
    fn a_chunk_comes_back_once_and_only_if_lent() {
        let mut pool = small();
        let frame = pool.alloc_from(b"abc").unwrap();
        let chunk_offset = frame.chunk() as u64 * 2048;
        assert!(pool.reclaim(chunk_offset, 3).is_none(), "held, not lent");
        let offset = pool.lend(frame);
        assert_eq!(offset, chunk_offset + 256);
        assert!(pool.reclaim(offset, 2000).is_none(), "leaves its chunk");
        let frame = pool.reclaim(offset, 3).unwrap();
        assert_eq!(pool.data(&frame), b"abc");
        assert!(pool.reclaim(offset, 3).is_none(), "already back");
        assert!(!pool.release(offset));
        assert!(!pool.release(1 << 40), "not in the pool at all");
        pool.free(frame);
        assert_eq!(pool.available(), 8);
    }

    #[test]
    fn too_long_packets_take_no_frame() {
        let mut pool = small();
        assert!(pool.alloc_from(&[0; 1793]).is_none());
        let frame = pool.alloc_from(&[7; 1792]).unwrap();
        assert_eq!(pool.data(&frame).len(), 1792);
        pool.free(frame);
        assert_eq!(pool.available(), 8);
    }

    #[test]
    fn a_burst_of_chunks_is_writable_at_once() {
        let mut pool = small();
        let frames: Vec<Frame> = (0..3).map(|n| pool.alloc_from(&[n; 60]).unwrap()).collect();
        let mut chunks: Vec<&mut [u8]> = pool.chunks_mut(&frames).collect();
        for chunk in &mut chunks {
            assert_eq!(chunk.len(), 2048);
            chunk[256] |= 0x80;
        }
        let first: Vec<u8> = frames.iter().map(|f| pool.data(f)[0]).collect();
        assert_eq!(first, [0x80, 0x81, 0x82]);
    }

    #[test]
    #[should_panic(expected = "the pool it came from")]
    fn a_frame_of_another_pool_is_refused() {
        let (mut one, two) = (small(), small());
        let frame = one.alloc_from(b"x").unwrap();
        let _ = two.data(&frame);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Alloc,
        Free(usize),
        Lend(usize),
        LendEmpty,
        Release(usize),
        Reclaim(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Alloc),
            any::<usize>().prop_map(Step::Free),
            any::<usize>().prop_map(Step::Lend),
            Just(Step::LendEmpty),
            any::<usize>().prop_map(Step::Release),
            any::<usize>().prop_map(Step::Reclaim),
        ]
    }

    #[test]
    fn a_duplicate_is_where_the_frame_is() {
        let mut pool = small();
        let mut frame = pool.alloc_from(&[7; 100]).unwrap();
        assert!(pool.set_range(&mut frame, 20, 200));
        pool.data_mut(&mut frame)[199] = 9;
        let mut copy = pool.duplicate(&frame).unwrap();
        assert_eq!((copy.start(), copy.len()), (20, 200));
        assert_eq!(pool.data(&copy), pool.data(&frame));
        pool.data_mut(&mut copy)[0] = 1;
        assert_ne!(pool.data(&copy), pool.data(&frame));
        while pool.alloc().is_some() {}
        assert!(pool.duplicate(&frame).is_none());
    }

    fn take<T>(items: &mut Vec<T>, pick: usize) -> Option<T> {
        let len = items.len();
        (len > 0).then(|| items.swap_remove(pick % len))
    }

    proptest! {
        /// Whatever is done with it, every chunk is in exactly one place.
        #[test]
        fn chunks_are_neither_lost_nor_shared(steps in proptest::collection::vec(step(), 0..200)) {
            let mut pool = small();
            let mut held: Vec<Frame> = Vec::new();
            let mut lent: Vec<u64> = Vec::new();
            for step in steps {
                match step {
                    Step::Alloc => held.extend(pool.alloc()),
                    Step::Free(n) => if let Some(frame) = take(&mut held, n) { pool.free(frame) },
                    Step::Lend(n) => if let Some(frame) = take(&mut held, n) { lent.push(pool.lend(frame)) },
                    Step::LendEmpty => lent.extend(pool.lend_empty()),
                    Step::Release(n) => if let Some(offset) = take(&mut lent, n) { prop_assert!(pool.release(offset)) },
                    Step::Reclaim(n) => if let Some(offset) = take(&mut lent, n) {
                        held.push(pool.reclaim(offset, 1).expect("it was lent"));
                    },
                }
                prop_assert_eq!(pool.available() + held.len() + lent.len(), pool.capacity());
                let mut chunks: Vec<usize> = held.iter().map(Frame::chunk).collect();
                chunks.extend(lent.iter().map(|offset| (*offset / 2048) as usize));
                chunks.sort_unstable();
                chunks.dedup();
                prop_assert_eq!(chunks.len(), held.len() + lent.len());
            }
        }
    }
}
