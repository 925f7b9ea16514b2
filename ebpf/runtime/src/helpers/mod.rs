//! The helpers themselves. Numbers, limits and error values are those of Linux 6.18.
//!
//! All have one signature, [`HelperFn`](crate::HelperFn), and one contract, stated here once.
//!
//! # Safety
//! `env` must point to the running worker's [`Env`](crate::Env) whose frame is live and used by nobody
//! else. Every argument must be what the helper's [`Proto`](crate::Proto) says: map arguments point to live
//! maps, memory arguments to as many readable or writable bytes as the following length or the map's
//! definition says. Pointers returned from maps are valid until the worker's next quiescent point.
#![allow(clippy::missing_safety_doc, reason = "the contract is the module's")]

/// Defines helpers: functions of the environment (borrowed for the call) and up to five registers.
macro_rules! helpers {
    ($($(#[$meta:meta])* fn $name:ident($($arg:pat),*) $body:block)*) => {
        $(helpers!(@pad [$(#[$meta])*] $name $body; $($arg),*);)*
    };
    (@pad $meta:tt $name:ident $body:block; $e:pat) => {
        helpers!(@define $meta $name $body $e, _, _, _, _, _);
    };
    (@pad $meta:tt $name:ident $body:block; $e:pat, $a:pat) => {
        helpers!(@define $meta $name $body $e, $a, _, _, _, _);
    };
    (@pad $meta:tt $name:ident $body:block; $e:pat, $a:pat, $b:pat) => {
        helpers!(@define $meta $name $body $e, $a, $b, _, _, _);
    };
    (@pad $meta:tt $name:ident $body:block; $e:pat, $a:pat, $b:pat, $c:pat) => {
        helpers!(@define $meta $name $body $e, $a, $b, $c, _, _);
    };
    (@pad $meta:tt $name:ident $body:block; $e:pat, $a:pat, $b:pat, $c:pat, $d:pat) => {
        helpers!(@define $meta $name $body $e, $a, $b, $c, $d, _);
    };
    (@pad $meta:tt $name:ident $body:block; $e:pat, $a:pat, $b:pat, $c:pat, $d:pat, $f:pat) => {
        helpers!(@define $meta $name $body $e, $a, $b, $c, $d, $f);
    };
    (@define [$(#[$meta:meta])*] $name:ident $body:block
     $e:pat, $a:pat, $b:pat, $c:pat, $d:pat, $f:pat) => {
        $(#[$meta])*
        pub unsafe extern "C" fn $name(
            env: *mut crate::Env, $a: u64, $b: u64, $c: u64, $d: u64, $f: u64,
        ) -> u64 {
            // SAFETY: the module's contract: the worker's live environment, which only this helper uses now.
            let $e = unsafe { &mut *env };
            $body
        }
    };
}

mod cookies;
mod events;
mod fib;
mod locks;
mod maps;
mod packet;
mod redirect;
mod strings;
mod system;
mod timers;
mod trace;

use core::slice;

use squalus_isa::Errno;

pub use cookies::*;
pub use events::*;
pub use fib::*;
pub use locks::*;
pub use maps::*;
pub use packet::*;
pub use redirect::*;
pub use strings::*;
pub use system::*;
pub use timers::*;
pub use trace::*;

/// Memory of `len` bytes, which may be null if there are none. Lengths are 32-bit arguments.
///
/// # Safety
/// `address` must be readable for `len` bytes.
unsafe fn bytes<'a>(address: u64, len: u64) -> &'a [u8] {
    let len = len as u32 as usize;
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller promises that the range is readable.
    unsafe { slice::from_raw_parts(address as *const u8, len) }
}

/// As [`bytes`], to write. The memory may overlap other arguments: make no reference to those meanwhile.
///
/// # Safety
/// `address` must be writable for `len` bytes.
unsafe fn bytes_mut<'a>(address: u64, len: u64) -> &'a mut [u8] {
    let len = len as u32 as usize;
    if len == 0 {
        return &mut [];
    }
    // SAFETY: the caller promises that the range is writable.
    unsafe { slice::from_raw_parts_mut(address as *mut u8, len) }
}

fn outcome(result: Result<(), Errno>) -> u64 {
    match result {
        Ok(()) => 0,
        Err(errno) => errno.as_return(),
    }
}

/// What a C function's `int` or `long` becomes in `r0`.
const fn signed(value: i64) -> u64 {
    value.cast_unsigned()
}
