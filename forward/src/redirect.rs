//! What becomes of redirected frames.
//!
//! The rules are those of the kernel's `xdp_do_redirect` and of what it calls: a frame goes out of another
//! interface, after the program of its devmap entry has looked at it; or to the host's stack, after that of
//! its cpumap entry has; or to whoever reads a socket of an xskmap. What the kernel would refuse is refused
//! here, and counted by the reason ([`RedirectDrop`]).
//!
//! In the kernel a cpumap entry's program runs on that CPU, and the host's stack after it. Here the worker
//! that has the frame runs it, and the host's stack chooses its CPU itself; so per-CPU maps show such
//! runs under the worker's number.

use std::sync::Arc;

use squalus_isa::Verdict;
use squalus_port::{Burst, Frame, Pool};
use squalus_runtime::FrameRef;
use squalus_vm::{Cursor, Destination};

use crate::outlets::Outlets;
use crate::report::{RedirectBoard, RedirectDrop};

/// Who gets the frames that a program redirects to a socket of an xskmap.
///
/// The kernel hands them to an AF_XDP socket; in userspace the program's owner is already there. Called in
/// the packet loop of any worker, so it must neither block nor take long.
pub trait Sockets: Send + Sync {
    /// Takes a frame for the socket with this number, the value of the map's entry; false if it can't,
    /// which is counted.
    fn deliver(&self, socket: u32, frame: &[u8]) -> bool;
}

/// How often a frame may be redirected again by the program of a cpumap entry.
const MAX_HOPS: u32 = 8;

/// Takes redirected frames where they are to go.
pub(crate) struct Redirector {
    pub(crate) outlets: Outlets,
    pub(crate) sockets: Option<Arc<dyn Sockets>>,
    pub(crate) board: Arc<RedirectBoard>,
}

/// The worker's engine and memory, as a redirect needs them.
pub(crate) struct Place<'a> {
    pub(crate) vm: &'a mut squalus_vm::Worker,
    pub(crate) pool: &'a mut Pool,
    /// Frames for the host's stack.
    pub(crate) pass: &'a mut Burst,
    /// Interface the frames came in by.
    pub(crate) ingress: u32,
}

/// A frame, and how it got here.
struct Redirected {
    frame: Frame,
    meta_len: usize,
}

impl Redirector {
    /// Takes one frame to its destination, or frees and counts it.
    pub(crate) fn redirect(
        &mut self,
        place: &mut Place<'_>,
        frame: Frame,
        meta_len: usize,
        to: Destination,
    ) {
        let mut frame = Redirected { frame, meta_len };
        let mut to = to;
        for _ in 0..MAX_HOPS {
            match to {
                Destination::Nowhere => {
                    return self.refuse(place.pool, frame.frame, RedirectDrop::NoTarget);
                }
                Destination::Device { ifindex, program } => {
                    return self.out_of(place, frame, ifindex, program);
                }
                Destination::Socket { id } => return self.hand_over(place.pool, frame.frame, id),
                Destination::Devices {
                    map,
                    exclude_ingress,
                } => {
                    let exclude = exclude_ingress.then_some(place.ingress);
                    return self.out_of_all(place, frame, map, exclude);
                }
                Destination::Cpu { program, .. } => match self.pass_on(place, frame, program) {
                    Some((again, next)) => (frame, to) = (again, next),
                    None => return,
                },
            }
        }
        self.refuse(place.pool, frame.frame, RedirectDrop::Loop);
    }

    /// Sends all that waits in outlets.
    pub(crate) fn flush(&mut self, pool: &mut Pool) {
        self.outlets.flush(pool, &self.board);
    }

    fn refuse(&self, pool: &mut Pool, frame: Frame, why: RedirectDrop) {
        self.board.count(why, 1);
        pool.free(frame);
    }

    /// Checks first, as the kernel, then runs the entry's program.
    fn out_of(
        &mut self,
        place: &mut Place<'_>,
        mut frame: Redirected,
        ifindex: u32,
        program: Option<u32>,
    ) {
        if let Err(why) = self.outlets.check(ifindex, frame.frame.len()) {
            return self.refuse(place.pool, frame.frame, why);
        }
        if let Some(program) = program {
            place.vm.set_egress(ifindex);
            let verdict = run(place, &mut frame, program);
            place.vm.set_egress(0);
            if verdict != Verdict::Pass {
                let why = RedirectDrop::of_program(verdict);
                return self.refuse(place.pool, frame.frame, why);
            }
        }
        self.outlets
            .push(place.pool, ifindex, frame.frame, &self.board);
    }

    /// Copies of the frame to all devices of a map that can take it now; the last one gets the frame itself.
    fn out_of_all(
        &mut self,
        place: &mut Place<'_>,
        frame: Redirected,
        map: u32,
        exclude: Option<u32>,
    ) {
        let mut cursor = Cursor::default();
        let mut last: Option<(u32, Option<u32>)> = None;
        while let Some(device) = place.vm.next_device(map, &mut cursor) {
            let (ifindex, _) = device;
            if exclude == Some(ifindex) || self.outlets.check(ifindex, frame.frame.len()).is_err() {
                continue;
            }
            if let Some((ifindex, program)) = last.replace(device) {
                match place.pool.duplicate(&frame.frame) {
                    Some(copy) => {
                        let copy = Redirected {
                            frame: copy,
                            meta_len: frame.meta_len,
                        };
                        self.out_of(place, copy, ifindex, program);
                    }
                    None => self.board.count(RedirectDrop::NoMemory, 1),
                }
            }
        }
        match last {
            Some((ifindex, program)) => self.out_of(place, frame, ifindex, program),
            None => self.refuse(place.pool, frame.frame, RedirectDrop::NoTarget),
        }
    }

    fn hand_over(&mut self, pool: &mut Pool, frame: Frame, id: u32) {
        let taken = match &self.sockets {
            Some(sockets) => sockets.deliver(id, pool.data(&frame)),
            None => false,
        };
        match taken {
            true => {
                self.board.sent(1);
                pool.free(frame);
            }
            false => self.refuse(pool, frame, RedirectDrop::NoConsumer),
        }
    }

    /// To the host's stack; or, if the entry's program redirects it again, back with the new destination.
    fn pass_on(
        &mut self,
        place: &mut Place<'_>,
        mut frame: Redirected,
        program: Option<u32>,
    ) -> Option<(Redirected, Destination)> {
        if let Some(program) = program {
            match run(place, &mut frame, program) {
                Verdict::Pass => {}
                Verdict::Redirect => return Some((frame, place.vm.redirect(0))),
                other => {
                    self.refuse(place.pool, frame.frame, RedirectDrop::of_program(other));
                    return None;
                }
            }
        }
        self.board.sent(1);
        if let Err(frame) = place.pass.push(frame.frame) {
            // Not more frames are passed than were received, so there is room.
            place.pool.free(frame);
        }
        None
    }
}

/// Runs another program of the machine on the frame, as it is, in place.
fn run(place: &mut Place<'_>, frame: &mut Redirected, program: u32) -> Verdict {
    let slice = std::slice::from_ref(&frame.frame);
    let (start, len) = (frame.frame.start(), frame.frame.len());
    let (verdict, start, len, meta_len) = {
        let Some(chunk) = place.pool.chunks_mut(slice).next() else {
            return Verdict::Aborted;
        };
        let Ok(mut view) = FrameRef::with_metadata(chunk, start, len, frame.meta_len) else {
            return Verdict::Aborted;
        };
        let verdict = place.vm.run_program(program, &mut view);
        let meta_len = view.metadata().len();
        (verdict, view.data_offset(), view.len(), meta_len)
    };
    frame.meta_len = meta_len;
    // The program's range lies in the chunk, so this does not fail.
    let _ = place.pool.set_range(&mut frame.frame, start, len);
    verdict
}
