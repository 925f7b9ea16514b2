//! One suite of cases, many engines.
//!
//! The house rests on one promise: the choice of engine never changes a verdict, a packet byte, a
//! counter or what a map holds. A [`Case`] is a list of [steps](Step): map operations as the control plane
//! makes them, and frames. [`compare`] does the same steps on every engine and reports each
//! [`Difference`]: in what a step returned (verdict, frame, errno), or in the contents of the maps
//! afterwards. The kernel is the judge where it is available; interpreter and compiler must also agree
//! with each other.
//!
//! What legitimately differs, because the kernel's clock cannot be set, is masked byte by byte in a
//! [`Watch`], never left out by map.
//!
//! Cases come from generators ([`balancer`], [`maps`], [`programs`]) that are driven by a seeded [`Rng`] and know the
//! formats. When engines differ, [`minimise`] finds a small case that still shows it, and a case's text
//! form ([`Case::parse`]) reproduces it anywhere.
#![forbid(unsafe_code)]

pub mod assemble;
pub mod balancer;
mod case;
mod compare;
pub mod engines;
pub mod frames;
mod hunt;
pub mod instructions;
pub mod maps;
pub mod maps_kinds;
mod minimise;
pub mod objects;
pub mod programs;
mod rng;
mod text;

pub use case::{Case, MapName, Step};
pub use compare::{Difference, Mask, Watch, compare};
pub use hunt::{Finding, Hunt, HuntError, Tally};
pub use minimise::{Minimised, minimise};
pub use rng::Rng;
pub use text::{ParseError, parse_hex};
