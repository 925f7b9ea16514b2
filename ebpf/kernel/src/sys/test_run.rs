//! Test runs.

use std::os::fd::BorrowedFd;

use squalus_isa::Errno;

use super::{address, address_mut, bpf, raw};

const PROG_TEST_RUN: u32 = 10;

#[repr(C)]
#[derive(Default)]
struct TestRunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// What a test run gave.
pub(crate) struct TestOutput {
    pub(crate) retval: u32,
    /// Bytes written to the output buffer.
    pub(crate) len: usize,
    /// Mean nanoseconds of a repetition.
    pub(crate) nanos: u32,
}

pub(crate) fn prog_test_run(
    fd: BorrowedFd<'_>,
    frame: &[u8],
    repeat: u32,
    out: &mut [u8],
) -> Result<TestOutput, Errno> {
    let mut attr = TestRunAttr {
        prog_fd: raw(fd),
        data_size_in: frame.len() as u32,
        data_size_out: out.len() as u32,
        data_in: address(frame),
        data_out: address_mut(out),
        repeat,
        ..TestRunAttr::default()
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    Ok(TestOutput {
        retval: attr.retval,
        len: attr.data_size_out as usize,
        nanos: attr.duration,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_laid_out_as_in_linux_bpf_h() {
        assert_eq!(std::mem::offset_of!(TestRunAttr, duration), 36);
    }
}
