//! Reading memory at addresses that nobody vouches for, as `%s` in a trace line does.

/// Granularity of memory protection.
const PAGE: u64 = 4096;

/// Copies memory of this process from `address` to `out`; returns how many bytes could be read before one
/// that cannot (`copy_from_kernel_nofault`).
///
/// A system call does it, which answers for bad addresses instead of faulting: for slow paths only.
pub(crate) fn read_process(address: u64, out: &mut [u8]) -> usize {
    let mut done = 0;
    while done < out.len() {
        let at = address.wrapping_add(done as u64);
        let len = (PAGE - at % PAGE).min((out.len() - done) as u64) as usize;
        if !read_within_page(at, &mut out[done..done + len]) {
            break;
        }
        done += len;
    }
    done
}

fn read_within_page(address: u64, out: &mut [u8]) -> bool {
    let local = libc::iovec {
        iov_base: out.as_mut_ptr().cast(),
        iov_len: out.len(),
    };
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(address as usize),
        iov_len: out.len(),
    };
    // SAFETY: the local vector is the borrowed slice; the kernel checks the remote one.
    let read = unsafe {
        libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0)
    };
    usize::try_from(read) == Ok(out.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn what_is_mapped_is_read_and_the_rest_is_not() {
        let text = *b"squalus";
        let mut out = [0; 7];
        if !read_within_page(text.as_ptr().expose_provenance() as u64, &mut out)
            && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS)
        {
            return eprintln!("SKIPPED: there is no process_vm_readv here (an emulator has none)");
        }
        assert_eq!(
            read_process(text.as_ptr().expose_provenance() as u64, &mut out),
            7
        );
        assert_eq!(out, text);
        assert_eq!(read_process(0, &mut out), 0);
        assert_eq!(read_process(1 << 63, &mut out), 0);
        assert_eq!(read_process(u64::MAX - 2, &mut out), 0);
    }
}
