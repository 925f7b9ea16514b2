//! Access to the bytes of a frame.

use aya_ebpf::{bindings::xdp_md, helpers::bpf_xdp_adjust_head};

use crate::{Step, Verdict, headers::Wire};

/// The context of an XDP program.
#[derive(Clone, Copy)]
pub struct Xdp(*mut xdp_md);

/// A frame, from its Ethernet header to its end.
///
/// Moving the start of the frame invalidates what was known of it, so [`Xdp::grow_head`] and [`Xdp::shrink_head`]
/// return a new one and the old must not be used again; the verifier enforces it.
#[derive(Clone, Copy)]
pub struct Frame {
    start: usize,
    end: usize,
}

impl Xdp {
    /// Wraps the pointer a program is called with.
    ///
    /// # Safety
    ///
    /// `ctx` must be the argument of the running XDP program.
    #[inline(always)]
    pub unsafe fn new(ctx: *mut xdp_md) -> Self {
        Self(ctx)
    }

    /// The frame as it is now.
    #[inline(always)]
    pub fn frame(self) -> Frame {
        // SAFETY: `new` demands the context of this run, whose fields are readable throughout.
        let (start, end) = unsafe { ((*self.0).data, (*self.0).data_end) };
        Frame {
            start: start as usize,
            end: end as usize,
        }
    }

    /// Moves the start of the frame `bytes` into the headroom to make room for headers, or drops the frame if there is none.
    #[inline(always)]
    pub fn grow_head(self, bytes: i32) -> Step<Frame> {
        self.adjust_head(-bytes)
    }

    /// Cuts `bytes` off the start of the frame, or drops the frame if it is too short.
    #[inline(always)]
    pub fn shrink_head(self, bytes: i32) -> Step<Frame> {
        self.adjust_head(bytes)
    }

    #[inline(always)]
    fn adjust_head(self, delta: i32) -> Step<Frame> {
        // SAFETY: the helper checks the new start against the buffer.
        match unsafe { bpf_xdp_adjust_head(self.0, delta) } {
            0 => Ok(self.frame()),
            _ => Err(Verdict::Drop),
        }
    }
}

impl Frame {
    /// Bytes of the frame.
    #[inline(always)]
    pub fn len(&self) -> u64 {
        (self.end - self.start) as u64
    }

    /// Whether the frame has no bytes.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The header at `offset`, or `None` if the frame ends before it does.
    #[inline(always)]
    pub fn get<T: Wire>(&self, offset: usize) -> Option<&T> {
        // SAFETY: `pointer` returns addresses of whole headers within the frame, `Wire` allows any bytes and says why
        // alignment is no matter, and `get_mut` cannot be called while this reference lives.
        unsafe { self.pointer::<T>(offset).map(|p| &*p) }
    }

    /// The header at `offset` for writing, or `None` if the frame ends before it does.
    #[inline(always)]
    pub fn get_mut<T: Wire>(&mut self, offset: usize) -> Option<&mut T> {
        // SAFETY: as for `get`, and the exclusive borrow keeps other references of this frame away.
        unsafe { self.pointer::<T>(offset).map(|p| &mut *p) }
    }

    /// The header at `offset`; a frame too short for it is dropped.
    #[inline(always)]
    pub fn header<T: Wire>(&self, offset: usize) -> Step<&T> {
        self.get(offset).ok_or(Verdict::Drop)
    }

    /// The header at `offset` for writing; a frame too short for it is dropped.
    #[inline(always)]
    pub fn header_mut<T: Wire>(&mut self, offset: usize) -> Step<&mut T> {
        self.get_mut(offset).ok_or(Verdict::Drop)
    }

    #[inline(always)]
    fn pointer<T: Wire>(&self, offset: usize) -> Option<*mut T> {
        let at = self.start + offset;
        (at + size_of::<T>() <= self.end).then_some(at as *mut T)
    }
}
