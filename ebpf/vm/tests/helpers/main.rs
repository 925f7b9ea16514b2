//! Helpers with the kernel as judge: the same call with the same arguments, in the kernel through
//! `BPF_PROG_TEST_RUN` and in both engines. Results, error numbers, memory and the frame must be equal.
#![allow(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod cookies;
mod events;
mod harness;
mod packet;
mod redirects;
mod strings;
mod system;
mod text;
